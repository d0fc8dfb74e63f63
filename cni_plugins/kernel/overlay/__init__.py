"""Manages overlay networks: VXLAN link, bridge, peer entries, routes and packet filter."""
