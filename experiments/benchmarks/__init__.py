"""Published benchmarks of editing and unlearning, run by any method on any model."""
