"""Implements `cnictl repair`."""
