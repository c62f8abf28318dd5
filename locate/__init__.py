"""Methods that read a model and say where knowledge lives."""
