"""Planted circuits: models whose circuit is known because it was written into their weights."""
