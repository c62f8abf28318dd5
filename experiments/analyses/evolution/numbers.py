"""Numbers of the report of `evolution`, read from the stored parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.claims import average

FINAL = "final"
FOUND, RUN = "circuits", "transplants"
NO_SPAN = 0.05
"""Faithfulness is left out where clean and corrupted run differ by less than this share of what
they differ by in the last model: the ratio would be noise."""


def of_kind(parts: Mapping[str, Part], kind: str) -> dict[str, Mapping[str, Any]]:
    """By checkpoint: each relation's values."""
    return {
        part["checkpoint"]: part["relations"]
        for key, part in parts.items()
        if key.startswith(f"{kind} ")
    }


def in_common(
    found: Mapping[str, Any], runs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both with the checkpoints that both have, and the relations that all of these have.

    Empty where the last model is not among them: all others are held against it.
    """
    labels = [label for label in found if label in runs] if FINAL in runs else []
    sides = [side[label] for side in (found, runs) for label in labels]
    names = [name for name in found.get(FINAL, ()) if all(name in each for each in sides)]
    if FINAL not in labels or not names:
        return {}, {}
    one, other = (
        {label: {name: side[label][name] for name in names} for label in labels}
        for side in (found, runs)
    )
    return one, other


def left_out(parts: Mapping[str, Part]) -> dict[str, str]:
    """By relation why it could not be looked at in one of the checkpoints."""
    return {name: why for part in parts.values() for name, why in part["left_out"].items()}


def share_of_both(left: Sequence[Any], right: Sequence[Any]) -> float:
    """Jaccard index of two sets; 1 for two empty ones."""
    one, other = set(left), set(right)
    return len(one & other) / len(one | other) if one | other else 1.0


def overlaps(
    found: Mapping[str, Any], label: str, what: str, other_subjects: bool = False
) -> np.ndarray:
    """Jaccard index of every relation's circuit with its last one.

    That is the one of the same prompt pairs, or the one found on the other half of the subjects.
    """
    last = {name: part["again"] if other_subjects else part for name, part in found[FINAL].items()}
    return np.array(
        [share_of_both(part[what], last[name][what]) for name, part in found[label].items()]
    )


def chance(found: Mapping[str, Any], what: str) -> np.ndarray:
    """Mean overlap of random circuits with the last one, by relation."""
    return np.array([part["chance"][what] for part in found[FINAL].values()])


def accuracy(relations: Mapping[str, Any]) -> Interval:
    """Share of facts whose answer is on top, over facts."""
    hits = [rank == 0 for part in relations.values() for rank in part["ranks"]]
    return average(np.array(hits, dtype=float))


def faithfulness_in(run: Mapping[str, Any], metric: Sequence[float], last: float) -> float:
    """Faithfulness of a circuit by its metric values; NaN where the model has no span to share."""
    empty = float(np.mean(run["empty"]["metric"]))
    span = float(np.mean(run["model"]["metric"])) - empty
    return (float(np.mean(metric)) - empty) / span if span > NO_SPAN * last else float("nan")


def last_spans(runs: Mapping[str, Any]) -> dict[str, float]:
    """What clean and corrupted run differ by in the last model, by relation."""
    return {
        name: float(np.mean(run["model"]["metric"]) - np.mean(run["empty"]["metric"]))
        for name, run in runs[FINAL].items()
    }


def transplanted(
    runs: Mapping[str, Any], circuit: str, model: str, what: str, names: Sequence[str] = ()
) -> np.ndarray:
    """Faithfulness or Hit@10 by relation of one checkpoint's circuit in another checkpoint."""
    spans, values = last_spans(runs), []
    for name, run in runs[model].items():
        outcome = run["random"] if circuit == "random" else run["circuits"][circuit]
        if what == "hit":
            values.append(float(np.mean(outcome["hit"])))
        else:
            values.append(faithfulness_in(run, outcome["metric"], spans[name]))
    return np.array(values)


def recall_times(found: Mapping[str, Any]) -> dict[str, list[int]]:
    """By relation each fact's first checkpoint (as a place) from which on it is always recalled."""
    labels, times = list(found), {}
    for name in found[FINAL]:
        right = np.array([[rank == 0 for rank in found[label][name]["ranks"]] for label in labels])
        stays = np.flip(np.logical_and.accumulate(np.flip(right, 0)), 0)
        times[name] = [int(column.argmax()) if column.any() else len(labels) for column in stays.T]
    return times


def step_name(label: str) -> str:
    """`step 703` for `step00703`."""
    if label == FINAL:
        return "the end"
    match = re.fullmatch(r"step[-_]?0*(\d+)", label)
    return f"step {int(match[1]):,}" if match else label


def tick(label: str) -> str:
    """A checkpoint as a label."""
    return step_name(label).removeprefix("step ").replace("the end", FINAL)
