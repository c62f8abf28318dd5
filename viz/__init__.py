"""Pictures of circuits, traces and evaluations, drawn from stored results."""
