"""The analysis `edit-study`."""
