"""The suite's own version, read by the build and printed by the usage line."""

VERSION = "0.1.0"
