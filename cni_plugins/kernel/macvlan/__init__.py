"""Manages macvlan links, the VLAN links below them, and the host's own macvlan link."""
