"""`cnictl overlay`."""
