"""Planted circuits: models whose circuit is known because it was written into their weights."""

NOISE = 0.3
"""Usual size of what a random head or unit writes, where words' patterns have 1 on an axis."""
