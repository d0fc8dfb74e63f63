"""`cnictl lab`."""
