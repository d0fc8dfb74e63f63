"""Implements the IPAM plugin cluster: one subnet over many hosts, which divide it into blocks."""
