"""Executes other IPAM plugins and returns their answers unchanged."""
