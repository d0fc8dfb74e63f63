"""Serves CNI calls that the executables hand over, in resident workers with all modules imported."""
