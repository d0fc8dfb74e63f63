"""Defines the error that ends a command with one line on stderr and exit code 1, without a traceback."""


class Failed(Exception):
    """A command cannot do what was asked; the message is for the operator."""
