"""Edits of knowledge as values: requests, methods that answer them, and weight changes."""
