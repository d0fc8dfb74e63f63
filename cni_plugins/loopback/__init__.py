"""The loopback plugin: sets `lo` up in a sandbox."""
