"""Gives one request access to the kernel: network namespaces, sockets and locks."""
