"""The tuning plugin: changes settings of an interface and of its network namespace."""
