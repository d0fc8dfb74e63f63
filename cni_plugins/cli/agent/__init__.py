"""Implements `cnictl agent`."""
