"""The analysis `mechanisms`."""
