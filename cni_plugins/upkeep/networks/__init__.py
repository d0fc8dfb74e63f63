"""Manages the networks of this host as files in the runtime's directory of configs."""
