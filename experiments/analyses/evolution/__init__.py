"""The analysis `evolution`."""
