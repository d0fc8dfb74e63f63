"""What a command cannot do. It ends as one line on stderr and exit code 1, never as a traceback."""


class Failed(Exception):
    """The message is a sentence for the operator."""
