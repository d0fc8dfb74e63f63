"""The portmap plugin: publishes ports of containers on the host."""
