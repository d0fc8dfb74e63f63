"""The commands `cnictl network …`."""
