"""Manages links over rtnetlink: veth pairs, bridges, bridge ports and their VLANs."""
