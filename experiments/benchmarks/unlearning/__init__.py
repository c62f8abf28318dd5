"""The benchmarks of unlearning: KnowUnDo and TOFU."""
