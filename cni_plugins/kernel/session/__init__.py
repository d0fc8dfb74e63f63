"""Access to the kernel for one request: network namespaces, sockets and locks."""
