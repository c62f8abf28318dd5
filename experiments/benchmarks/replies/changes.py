"""A method's edit for one case, and beside it a random change of its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from circuits.base.choices import Control
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.control import control, control_seed
from circuits.model.model import Model
from experiments.benchmarks.base import NO_EDIT, Bench
from locate.edit import Editor

AFTER, RANDOM = "after", "random"
"""Sides of a case beside `before`: with the edit, and with its control."""


@dataclass(frozen=True, eq=False)
class Changed:
    """What a method makes of a case: deltas by side (None: the model as it is), and its record."""

    deltas: Mapping[str, WeightDelta | None]
    record: Mapping[str, Any]


def changed(bench: Bench, request: EditRequest, method: str) -> Changed:
    """The edit and its control, drawn by the run's seed and the request.

    The record's `probability` is the target's before and after, the geometric mean of its tokens.
    Without an edit, where it diverged, or where the model says the target already, the model is as
    it was, and there is no control.
    """
    if method == NO_EDIT:
        return Changed({AFTER: None}, {"status": NO_EDIT, "norm": 0.0})
    editor = bench.once(("editor", method), lambda: Editor(bench.model, method, seed=bench.seed))
    outcome = editor([request])
    record = {"status": str(outcome.status), "layers": list(outcome.layers)}
    if outcome.delta is None:
        return Changed({AFTER: None}, {**record, "norm": 0.0, "reason": outcome.reason})
    beside = control(outcome.delta, bench.model, control_seed(bench.seed, request), Control.RANDOM)
    record |= {
        "norm": outcome.delta.norm(),
        "seconds": outcome.details["seconds"],
        "probability": [outcome.details[f"probability_{side}"][0] for side in ("before", "after")],
    }
    return Changed({AFTER: outcome.delta, RANDOM: beside}, record)


@contextmanager
def applied(delta: WeightDelta | None, model: Model) -> Iterator[Model]:
    """The model with the change, where there is one; as it was when the block ends."""
    if delta is None:
        yield model
        return
    with delta.applied(model):
        yield model
