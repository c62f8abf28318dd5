"""The analysis `unlearning`."""
