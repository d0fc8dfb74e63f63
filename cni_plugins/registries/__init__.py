"""Gives access to the stores in which hosts publish themselves; only the agent and cnictl load it."""
