"""Implements the host-local IPAM plugin; the lease directory is compatible with the reference plugin."""
