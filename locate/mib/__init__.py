"""MIB's circuit track: importances of edges, CPR and CMD as its board has them, submissions."""
