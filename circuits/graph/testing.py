"""Tests of a circuit as plain statistics: a sign test, a test of independence, a test of ranks.

No model is run here; `circuits.graph.hypothesis` makes the numbers. Every p-value is at most the
level in at most that share of cases where its null hypothesis holds, which the tests simulate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

MARGIN = 0.1
"""How far from a half the share of wins may lie and still count as even (Shi et al. 2024)."""
QUANTILE = 0.9
"""What is better than so large a part of random ones is called better than random ones."""


def uneven_p(wins: int, n: int, margin: float = MARGIN) -> float:
    """p of the null that one of two wins with a chance within `margin` of a half, from n games.

    The chance of so uneven a result or a more uneven one where the share is just at the margin:
    P(|K / n - 1/2| >= |wins / n - 1/2|) with K ~ Binomial(n, 1/2 + margin). NaN for no game.
    """
    if n == 0:
        return float("nan")
    k = np.arange(n + 1)
    as_uneven = np.abs(2 * k - n) >= abs(2 * wins - n)
    return float(min(1.0, stats.binom.pmf(k[as_uneven], n, 0.5 + margin).sum()))


def least_uneven(n: int, level: float, margin: float = MARGIN) -> float:
    """The smallest share of wins above a half that `uneven_p` calls uneven; NaN where none is."""
    for wins in range((n + 1) // 2, n + 1):
        if uneven_p(wins, n, margin) <= level:
            return wins / n
    return float("nan")


def dependence(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, float]:
    """HSIC of two columns, and the p of the null that they are independent.

    Gaussian kernels, each as wide as the median distance of its own column; the observed pairing
    counts among the permutations, so that p is never 0 (Gretton et al. 2007). NaN twice where a
    column is constant, which depends on nothing.
    """
    n = len(x)
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), float("nan")
    left, right = _centred(_kernel(x)), _kernel(y)
    generator = np.random.default_rng(seed)
    observed = float((left * right).sum())
    reached = 1
    for _ in range(permutations):
        order = generator.permutation(n)
        reached += (left * right[np.ix_(order, order)]).sum() >= observed * (1 - 1e-12)
    return observed / (n - 1) ** 2, float(reached / (permutations + 1))


def fewer_p(wins: int, n: int, quantile: float = QUANTILE) -> float:
    """p of the null that something beats a random one with at least this chance, from n of them."""
    return float(stats.binom.cdf(wins, n, quantile)) if n else float("nan")


def more_p(wins: int, n: int, quantile: float = QUANTILE) -> float:
    """p of the null that something beats a random one with at most this chance, from n of them."""
    return float(stats.binom.sf(wins - 1, n, quantile)) if n else float("nan")


def holm(p_values: Sequence[float] | Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Holm's (1979) adjusted p: the chance of any false rejection below p is at most p."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    found = np.empty_like(values)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found


def _kernel(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """Gaussian, of the width of the median distance between two different values."""
    distances = np.abs(values[:, None] - values[None, :]).astype(np.float64)
    width = np.median(distances[distances > 0])
    return np.asarray(np.exp(-((distances / width) ** 2) / 2))


def _centred(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    means = kernel.mean(0)
    return np.asarray(kernel - means[:, None] - means[None, :] + means.mean())
