"""The stored parts of `stability` as numbers, and what can be told from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from circuits.base.intervals import UNDEFINED, Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.claims import across, average
from experiments.analyses.stability import variance
from experiments.analyses.stability.choices import FEWEST_DRAWS, Config, idle

OUTCOMES = {
    "edges": "which edges are kept",
    "ranks": "the ranks of the scores",
    "faithfulness": "how faithful the circuit is",
}


def pooled(units: Sequence[Interval]) -> Interval:
    """The mean over relations: of five or more with them resampled, of fewer about these."""
    return across("it is so", units).estimate


def over_relations(values: Sequence[float]) -> Interval:
    """The same of numbers without an interval of their own: of fewer than five there is none."""
    return average(values)


Reads = Mapping[str, Sequence[bool]]
"""For each factor which of a relation's combinations read it."""


def reads(part: Part, config: Config) -> Reads:
    """From the stored levels of every combination."""
    drawn = part["draws"]["levels"]
    settings = [dict(zip(drawn, each, strict=True)) for each in zip(*drawn.values(), strict=True)]
    unread = [idle(setting, config) for setting in settings]
    return {factor: [factor not in each for each in unread] for factor in drawn}


def readers(name: str, read: Sequence[Reads]) -> list[int]:
    """How many combinations of each relation read a choice."""
    return [sum(each[name]) for each in read if name in each]


def counted(name: str, read: Sequence[Reads]) -> str:
    """The same in words: `7 of 32`."""
    return f"{span_of(readers(name, read))} of {span_of([len(e[name]) for e in read if name in e])}"


def among(name: str, read: Sequence[Reads]) -> str:
    """Of which combinations a choice's part is; nothing where all read it."""
    if all(all(each[name]) for each in read if name in each):
        return ""
    return f", among the {counted(name, read)} combinations that read it"


def span_of(counts: Sequence[int]) -> str:
    """`32`, or `20 to 32`."""
    return " to ".join(str(n) for n in dict.fromkeys((min(counts), max(counts))))


def part_of(
    part: Part, outcome: str, factor: str, read: Reads, against: str | None = None
) -> Interval:
    """A factor's part, or how much more it is than another one's, where both are read.

    Undefined where fewer than `FEWEST_DRAWS` combinations read them.
    """
    asked = (factor,) if against is None else (factor, against)
    drawn = part["draws"]["levels"]
    if not set(asked) <= set(drawn):
        return UNDEFINED
    places = np.flatnonzero(np.all([read[name] for name in asked], 0))
    if len(places) < FEWEST_DRAWS:
        return UNDEFINED
    gram = np.array(part["draws"]["products"][outcome], dtype=float)[np.ix_(places, places)]
    levels = ([drawn[name][place] for place in places] for name in asked)
    return variance.part_interval(gram, *levels)


def rest_of(part: Part, outcome: str) -> float:
    """What the parts of all factors, among all combinations, leave to 1."""
    gram = np.array(part["draws"]["products"][outcome], dtype=float)
    found = [variance.part(gram, levels) for levels in part["draws"]["levels"].values()]
    return 1 - float(np.nansum(found)) if np.isfinite(found).any() else np.nan


def not_listed(part: Part) -> int:
    """How many of the base's edges, and of those that half of the combinations keep, have no row.

    The first of all are stored by name.
    """
    kept, base = part["labels"]["edges"], part["labels"]["base_edges"]
    return kept["core"] + kept["contingent"] + base["noise"] - len(part["listed"])


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
