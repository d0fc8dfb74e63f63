"""The lab of the end-to-end tier: simulated hosts, runtimes in them, a virtual machine."""
