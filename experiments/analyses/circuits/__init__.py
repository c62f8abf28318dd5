"""The analysis `circuits`."""
