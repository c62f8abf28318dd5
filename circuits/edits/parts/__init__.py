"""What several editing methods share."""
