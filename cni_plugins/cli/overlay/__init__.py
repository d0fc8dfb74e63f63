"""Implements `cnictl overlay`."""
