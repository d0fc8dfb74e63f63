"""Links over rtnetlink: veth pairs, bridges, bridge ports and their VLANs."""
