"""Circuits: geometry, selection, running, evaluation, resampling and comparison."""
