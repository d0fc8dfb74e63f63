"""Speaks netlink: sockets, attributes, and the rtnetlink and nf_tables messages built from them."""
