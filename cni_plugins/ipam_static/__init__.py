"""The static IPAM plugin: hands out the addresses it is given, keeps no state."""
