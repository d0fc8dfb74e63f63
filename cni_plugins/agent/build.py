"""Names the build: freezing replaces the constant by a digest of its inputs, as in the executables."""

BUILD = "unfrozen"
