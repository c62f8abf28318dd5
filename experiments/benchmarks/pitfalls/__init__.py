"""What sequences of edits do: ConflictEdit and RoundEdit of Li et al. (ICLR 2024)."""
