"""What a knowledge circuit is, and what can be done to it."""
