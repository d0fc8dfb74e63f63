"""Maintains a host outside any request: compares, repairs and measures what the plugins created."""
