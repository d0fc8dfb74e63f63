"""Manages IP addresses, routes, neighbours and the settings under /proc/sys/net."""
