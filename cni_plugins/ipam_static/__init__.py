"""Implements the static IPAM plugin: it returns the addresses given in the config, and keeps no state."""
