"""Keeps leases as files on this host, for the IPAM plugins that give out addresses; as the reference does."""
