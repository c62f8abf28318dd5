"""Grids of verbs over models, facts, settings and seeds; every finished unit is one file."""
