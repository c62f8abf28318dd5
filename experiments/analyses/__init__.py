"""Analyses of a model's recall of facts: each a question, its units of work, and a report."""
