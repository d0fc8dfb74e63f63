"""The ptp plugin: a veth pair between host and container, no subnet. Decides; never touches the kernel."""
