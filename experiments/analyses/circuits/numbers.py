"""Numbers of the report of `circuits`, read from the stored parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import interval
from experiments.analyses.engine.base import Part

HALVES = ("validation", "test")
KINDS = ("model", "circuit", "random")


def hit(part: Part, half: str, kind: str) -> Interval:
    """Hit@10 of the model, the circuit or random circuits on a half."""
    return interval(part["halves"][half]["hit_at_10"].get(kind))


def measure(part: Part, half: str, name: str) -> Interval:
    """A stored measure of a half."""
    return interval(part["halves"][half][name])


def over(parts: Mapping[str, Part], read: Callable[[Part], float]) -> np.ndarray:
    """A number of every relation."""
    return np.array([read(part) for part in parts.values()])


def hits(parts: Mapping[str, Part], half: str, kind: str) -> np.ndarray:
    """Hit@10 by relation."""
    return over(parts, lambda part: hit(part, half, kind).value)


def values(parts: Mapping[str, Part], half: str, name: str) -> np.ndarray:
    """A measure by relation."""
    return over(parts, lambda part: measure(part, half, name).value)


def share_of_edges(parts: Mapping[str, Part]) -> np.ndarray:
    """Kept edges over all edges, by relation."""
    return over(parts, lambda part: part["edges"] / part["all_edges"])


def grouped(parts: Mapping[str, Part]) -> dict[str, dict[str, Part]]:
    """Relations by category, and all of them."""
    groups: dict[str, dict[str, Part]] = {}
    for name, part in parts.items():
        groups.setdefault(part["category"], {})[name] = part
    return {**groups, "all": dict(parts)}
