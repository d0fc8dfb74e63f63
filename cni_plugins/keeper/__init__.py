"""Keeps the networks of this host in step with the stores that their configs name."""
