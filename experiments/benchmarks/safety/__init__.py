"""SafeEdit: whether an edited model declines what it should, and keeps the rest."""
