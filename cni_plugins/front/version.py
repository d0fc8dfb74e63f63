"""Defines the suite's version, which the build reads and the usage line prints."""

VERSION = "0.1.0"
