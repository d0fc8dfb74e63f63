"""The only room that talks to the kernel: netlink, network namespaces, sysctls, nf_tables."""
