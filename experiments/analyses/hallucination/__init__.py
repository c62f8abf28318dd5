"""The analysis `hallucination`."""
