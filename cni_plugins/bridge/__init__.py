"""The bridge plugin: a veth pair into a Linux bridge. Decides; never touches the kernel itself."""
