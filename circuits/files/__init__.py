"""Results as files, and circuits in the formats of other tools."""
