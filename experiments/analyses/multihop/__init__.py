"""The analysis `multihop`."""
