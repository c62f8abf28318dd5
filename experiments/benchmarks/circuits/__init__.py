"""What a method did to the circuits of single facts, beside what became of them."""
