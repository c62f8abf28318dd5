"""Methods that score edges."""
