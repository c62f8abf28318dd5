"""One module a method that edits or unlearns."""
