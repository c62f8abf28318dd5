"""Comparisons of a model with itself: what is called changed is called so wrongly."""
