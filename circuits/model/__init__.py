"""A language model with its tokens, weights, wiring and metrics."""
