"""Runs requests: selects the plugin, orders the calls, and undoes a failed ADD, for all plugins alike."""
