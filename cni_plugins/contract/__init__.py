"""What a plugin declares: its functions, the facts it asks for, the base of its config model."""
