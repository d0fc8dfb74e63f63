"""`cnictl install` and `cnictl uninstall`."""
