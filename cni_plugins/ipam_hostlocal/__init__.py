"""The host-local IPAM plugin: leases in a directory, compatible with the reference on disk."""
