"""Features as nodes: their directions, and which attention heads carry an edge between two."""
