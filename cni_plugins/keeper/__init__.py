"""Follows the networks whose peers come from a store or file: claims, publishes, applies, repairs."""
