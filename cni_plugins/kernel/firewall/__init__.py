"""Packet filter and address translation rules in nf_tables and iptables."""
