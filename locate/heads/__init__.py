"""What heads look at, write and do."""
