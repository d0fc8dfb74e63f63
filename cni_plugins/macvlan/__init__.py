"""The macvlan plugin: attaches containers directly to the network of a host link, with their own MACs."""
