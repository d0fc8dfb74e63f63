"""Implements `cnictl install` and `cnictl uninstall`."""
