"""The studies behind the README tables."""
