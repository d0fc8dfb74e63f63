"""Implements cnictl: parses its commands and prints their results; other packages decide about networks."""
