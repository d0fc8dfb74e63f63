"""Runs another IPAM plugin's executable and hands its answer back unchanged."""
