"""The stored parts of `stability` as numbers, and what can be told from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.claims import across
from experiments.analyses.stability.variance import part_interval


def pooled(units: Sequence[Interval]) -> Interval:
    """The mean over relations: of five or more with them resampled, of fewer about these."""
    return across("it is so", units).estimate


def part_of(part: Part, outcome: str, factor: str, against: str | None = None) -> Interval:
    """A factor's part, or how much more it is than another one's."""
    drawn = part["draws"]["levels"]
    if not {factor, against or factor} <= set(drawn):
        return Interval(np.nan, np.nan, np.nan)
    gram = np.array(part["draws"]["products"][outcome], dtype=float)
    return part_interval(gram, drawn[factor], None if against is None else drawn[against])


def core_share(part: Part, of: str = "base_edges") -> float:
    """The share of edges or nodes that nearly all combinations keep; NaN of none."""
    counts = part["labels"][of]
    total = sum(counts.values())
    return counts["core"] / total if total else np.nan


def singles(part: Part, factor: str, what: str) -> np.ndarray:
    """A number of each of a factor's other levels."""
    return np.array([number(each[what]) for each in part["single"] if each["factor"] == factor])


def mean_known(values: np.ndarray) -> float:
    """The mean of the values that are finite; NaN where none is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def chance_jaccard(part: Part) -> float:
    """What two random sets of as many edges share, on average to first order."""
    n, total = part["edges"], part["all_edges"]
    both = n * n / total
    return float(both / (2 * n - both))
