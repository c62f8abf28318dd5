"""Benchmarks of edits: did the edit take, does it carry over, is the rest as it was."""
