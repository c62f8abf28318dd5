"""How an estimate of edges agrees with their exact scores, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import pearsonr, spearmanr


@dataclass(frozen=True)
class Agreement:
    """Of estimated with exact scores of the same edges.

    `pearson` is of the scores, `pearson_size` and `spearman_size` of their sizes, which locators
    without a sign have too. `sign` is the share of the truly largest edges whose sign is right,
    `recall` the share of them that are also among as many largest estimates, which of all edges is
    1; `slope` the factor by which the estimate is too large (least squares through 0).
    """

    pearson: float
    pearson_size: float
    spearman_size: float
    sign: float
    recall: float
    slope: float


def agreement(
    estimate: Float[np.ndarray, " edge"], exact: Float[np.ndarray, " edge"], largest: int
) -> Agreement:
    """The numbers; `largest`, below the number of edges, is how many count as the largest.

    Correlations are NaN where all are equal.
    """
    guess, truth = estimate.astype(np.float64), exact.astype(np.float64)
    size, true_size = np.abs(guess), np.abs(truth)
    top = np.argsort(-true_size, kind="stable")[:largest]
    found = np.argsort(-size, kind="stable")[:largest]
    return Agreement(
        pearson=_related(pearsonr, guess, truth),
        pearson_size=pearson_of_sizes(estimate, exact),
        spearman_size=_related(spearmanr, size, true_size),
        sign=float(np.mean(np.sign(guess[top]) == np.sign(truth[top]))),
        recall=len(np.intersect1d(top, found)) / largest,
        slope=float(guess @ truth / (truth @ truth)) if truth.any() else np.nan,
    )


def pearson_of_sizes(
    estimate: Float[np.ndarray, " edge"], exact: Float[np.ndarray, " edge"]
) -> float:
    """The correlation of estimated with exact sizes; NaN where all are equal."""
    return _related(pearsonr, np.abs(estimate.astype(np.float64)), np.abs(exact.astype(np.float64)))


def _related(measure: object, a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(measure(a, b).statistic)  # type: ignore[operator]
