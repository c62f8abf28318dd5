"""Curves over layers with intervals, and the layer from which two of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuits.base.intervals import Interval
from experiments.analyses.engine.claims import average, false_discovery, paired_p

LEVEL = 0.05
"""False discovery rate at which two curves are said to differ in a state."""


@dataclass(frozen=True)
class Parting:
    """Where two curves part: `first` is the state from which on they differ, None for nowhere.

    State 0 is the embedding, state l + 1 the residual stream after layer l. `differences` are left
    minus right with 95 % intervals, `q` false discovery rates over the states.
    """

    first: int | None
    differences: tuple[Interval, ...]
    q: tuple[float, ...]

    @property
    def where(self) -> str:
        """`after layer 3`, `at the embedding` or `nowhere`."""
        return "nowhere" if self.first is None else state_name(self.first)


def parting(
    left: Float[np.ndarray, "case state"],
    right: Float[np.ndarray, "case state"],
    clusters: Sequence[str],
    seed: int = 0,
) -> Parting:
    """From which state on left lies above right, in every state until the end.

    The test flips signs of the clusters' mean differences; rates are controlled over the states
    (Benjamini & Hochberg 1995).
    """
    change = left - right
    names = np.asarray(clusters)
    groups = dict.fromkeys(names.tolist())
    means = np.array([change[names == name].mean(0) for name in groups])
    p_values = [paired_p(column, seed=seed) for column in means.T]
    q_values = false_discovery(p_values)
    differs = (q_values <= LEVEL) & (means.mean(0) > 0)
    first = len(differs)
    while first and differs[first - 1]:
        first -= 1
    return Parting(
        None if first == len(differs) else first,
        tuple(average(column, clusters, seed) for column in change.T),
        tuple(q_values.tolist()),
    )


def curve(
    values: Float[np.ndarray, "case state"], clusters: Sequence[str], seed: int = 0
) -> list[Interval]:
    """The mean over cases by state, with clusters resampled."""
    return [average(column, clusters, seed) for column in values.T]


def powers_of_ten(intervals: Sequence[Interval]) -> list[Interval]:
    """Back from means of a logarithm to base 10: geometric means."""
    return [Interval(*(float(10**x) for x in vars(each).values())) for each in intervals]


def state_name(state: int) -> str:
    """A state in words."""
    return "at the embedding" if state == 0 else f"after layer {state - 1}"
