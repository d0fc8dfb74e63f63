"""Repairs rules that other programs remove, in a process of its own beside the workers."""
