"""Defines what a plugin declares: its functions, the facts it requests, the base of its config model."""
