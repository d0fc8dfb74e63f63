"""`cnictl agent`."""
