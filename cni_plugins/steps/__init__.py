"""Defines steps: the changes to a host that a plan consists of, as values with their inverses."""
