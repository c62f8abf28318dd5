"""What every room stands on: errors, choices, intervals, files written whole, plain values."""
