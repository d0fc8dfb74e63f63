"""Follows stores, and applies on this host what they say."""
