"""Training of the two small models that ship with the project: `python -m experiments.train`."""
