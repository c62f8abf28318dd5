"""Faithfulness against the number of edges: curves with their areas, alone and by name.

    CPR = integral of f dk, CMD = integral of |1 - f| dk over the kept fraction k of edges,
    from the smallest that was measured to the largest

with the faithfulness f of `circuits.graph.evaluate` (Mueller et al. 2025): more CPR is better, and
less CMD. CPR is of circuits that rank edges by score, CMD of those that rank them by |score|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from circuits.base.choices import Ranking
from circuits.base.intervals import Interval, enough, percentiles, redrawn
from circuits.graph.circuit import Circuit
from circuits.graph.curve import FaithfulnessCurve
from circuits.graph.evaluate import Runs, restored


def faithfulness_curve(
    runs: Runs,
    circuits: Sequence[Circuit],
    *,
    sizes: Sequence[int] | None = None,
    fractions: Sequence[float] | None = None,
    ranking: Ranking | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> FaithfulnessCurve:
    """The curve of `runs`, whose circuits must be ordered by size, and the areas over it.

    `sizes` are the edges that were selected for each circuit; by default what it holds, which
    pruning may have made fewer. `fractions` are what the areas are taken over; by default the share
    of the sizes in all edges. `ranking` is what the circuits rank by, which says what the areas are
    called.
    """
    sizes = [circuit.n_edges for circuit in circuits] if sizes is None else sizes
    if fractions is None:
        fractions = [size / circuits[0].wiring.n_edges for size in sizes]
    stack = np.stack([outcome.metric for outcome in runs.circuits])

    def curve(columns: np.ndarray) -> np.ndarray:
        return restored(stack[:, columns], runs.model.metric[columns], runs.empty.metric[columns])

    def area(columns: np.ndarray) -> float:
        return float(np.trapezoid(curve(columns), fractions))

    def distance(columns: np.ndarray) -> float:
        return float(np.trapezoid(np.abs(1 - curve(columns)), fractions))

    groups, everything = runs.groups, np.arange(stack.shape[1])
    drawn = resamples if enough(len(np.unique(groups))) else 0
    draws = list(redrawn(groups, drawn, seed))

    def interval(statistic: Callable[[np.ndarray], float]) -> Interval:
        return percentiles(statistic(everything), [statistic(draw) for draw in draws])

    points = tuple(runs.faithfulness(i, resamples, seed) for i in range(len(circuits)))
    areas = interval(area), interval(distance)
    return FaithfulnessCurve(tuple(fractions), tuple(sizes), points, *areas, ranking)
