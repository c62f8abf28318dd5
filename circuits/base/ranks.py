"""What ranks say: how well values tell two kinds apart, and whether two vectors rise together.

Both look along the last axis, so that many resamples are one call.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata


def area(
    values: Float[np.ndarray, "*rows n"], good: Bool[np.ndarray, "*rows n"]
) -> Float[np.ndarray, "*rows"]:
    """Area under the ROC curve: the chance that a good one has more, equal ones counting half.

    By ranks (Mann and Whitney 1947); 0.5 is chance, NaN where all are of one kind.
    """
    many = good.sum(-1)
    pairs = many * (good.shape[-1] - many)
    above = (rankdata(values, axis=-1) * good).sum(-1) - many * (many + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def spearman(
    left: Float[np.ndarray, "*rows n"], right: Float[np.ndarray, "*rows n"]
) -> Float[np.ndarray, "*rows"]:
    """Spearman's rank correlation; NaN where either side is constant."""
    ranks = (rankdata(each, axis=-1) for each in (left, right))
    x, y = (each - each.mean(-1, keepdims=True) for each in ranks)
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.where(size > 0, (x * y).sum(-1) / np.where(size > 0, size, 1), np.nan)
