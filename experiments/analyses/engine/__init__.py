"""What all analyses share: units, resume, tables, claims, pages."""
