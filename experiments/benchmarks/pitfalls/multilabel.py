"""MEMIT with several objects for one prompt: the Multi-Label Edit of Li et al. (2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.memit import (
    Keys,
    MemitSettings,
    spread,
    value_details,
    weighted_directions,
)
from circuits.edits.methods.registry import EditMethod
from circuits.edits.parts.contexts import sample_contexts
from circuits.edits.parts.moments import Moments
from circuits.edits.parts.value import Progress
from circuits.model.model import Model


def memit_all_objects(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: MemitSettings,
    moments: Moments,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """As `memit`, which refuses two targets for one prompt; equal to it where there is one.

    The requests have one key and a value each, so that what is written at the key is their sum
    over n + lambda / (k^T C^-1 k): close to the values' mean.
    """
    contexts = sample_contexts(model, settings.contexts, generator)

    def directions(layer: int, keys: Keys) -> Keys:
        return weighted_directions(
            moments, layer, keys, settings.covariance_weight, settings.shrinkage
        )

    changes, values = spread(
        model, requests, layers, contexts, settings.value, directions, progress
    )
    return WeightDelta(changes, {"settings": asdict(settings)}), value_details(values, contexts)


MEMIT_MLE = EditMethod(
    "memit-mle",
    f"{__name__}:memit_all_objects",
    "MEMIT, whose way back edits every true object at once",
    settings="circuits.edits.methods.memit:MemitSettings",
    needs_moments=True,
)
"""It has the hyperparameters of MEMIT and is no choice of `kc edit`."""
