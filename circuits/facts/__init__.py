"""Facts, how they are asked, and the prompt pairs that find a circuit."""
