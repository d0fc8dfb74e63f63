"""The bridge plugin: connects a container to a Linux bridge by a veth pair. Never calls the kernel itself."""
