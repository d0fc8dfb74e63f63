"""Talks to the kernel: netlink, network namespaces, sysctls, nf_tables. No other package does."""
