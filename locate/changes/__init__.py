"""What a change of the weights did to a circuit."""
