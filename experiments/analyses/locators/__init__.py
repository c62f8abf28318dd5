"""Estimates of edges against exact patching."""
