"""How two vectors of scores agree, and how much score moved where."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's and Kendall's correlation of two score vectors; NaN where one is constant."""

    spearman: float
    kendall: float


@dataclass(frozen=True)
class Mass:
    """Score mass of the edges that leave a group of nodes, in units of the metric.

    `moved` sums |after - before|, `share` is its part of all that moved (0 where nothing did);
    `changed` counts the edges called changed, None where there is no noise floor.
    """

    group: str
    edges: int
    before: float
    after: float
    moved: float
    share: float
    changed: int | None


def rank_correlation(left: np.ndarray, right: np.ndarray) -> RankCorrelation:
    """Both correlations; 1 for equal vectors, NaN where one is constant."""
    if len(left) and np.array_equal(left, right):
        return RankCorrelation(1.0, 1.0)
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return RankCorrelation(float("nan"), float("nan"))
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = stats.spearmanr(left, right).statistic, stats.kendalltau(left, right).statistic
    return RankCorrelation(*(float(each) for each in found))
