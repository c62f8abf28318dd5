"""The analysis `flow`."""
