"""Manages packet filter and address translation rules in nf_tables and iptables."""
