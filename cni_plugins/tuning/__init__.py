"""The tuning plugin: changes settings of an interface and its network namespace. Never calls the kernel."""
