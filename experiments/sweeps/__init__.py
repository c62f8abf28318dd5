"""Grids of any verb over models, facts, settings and seeds; every finished unit is one file."""
