"""Implements `cnictl lab`."""
