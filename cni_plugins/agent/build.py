"""Which build this is: freezing puts the digest of all it froze here, the same as in the executables."""

BUILD = "unfrozen"
