"""Provides the peers of an overlay: one backend in each file, behind the contract in `roster`."""
