"""The analysis `icl`."""
