"""The analysis `edit-effects`."""
