"""The ptp plugin: connects a container to the host by a routed veth pair. Never calls the kernel itself."""
