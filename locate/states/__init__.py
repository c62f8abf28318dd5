"""Methods that read or restore states of a run."""
