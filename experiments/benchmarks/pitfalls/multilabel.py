"""MEMIT with several objects for one prompt: the Multi-Label Edit of Li et al. (2024).

It is `memit` without the refusal of two targets for one prompt, and equal to it where there is one.
The requests have one key and a value each, so that what is written at the key is their sum over
n + lambda / (k^T C^-1 k): close to the values' mean.
"""

from __future__ import annotations

from circuits.edits.methods.registry import EditMethod

MEMIT_MLE = EditMethod(
    "memit-mle",
    "circuits.edits.methods.memit:write_values",
    "MEMIT, whose way back edits every true object at once",
    settings="circuits.edits.methods.memit:MemitSettings",
    needs_moments=True,
)
"""It has the hyperparameters of MEMIT and is no choice of `kc edit`."""
