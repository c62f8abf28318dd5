"""An estimate with its uncertainty: 95 % bootstrap intervals over facts or prompt pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval; the limits are NaN where there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "undefined"
        value, low, high = (f"{x:z.3f}" for x in (self.value, self.low, self.high))  # z: no -0.000
        return f"{value} [{low}, {high}]" if np.isfinite(self.low) else value

    def as_dict(self) -> dict[str, float | None]:
        """For JSON: null where a number is undefined."""
        return {name: x if np.isfinite(x) else None for name, x in vars(self).items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, float | None]) -> Interval:
        """The inverse of `as_dict`; KeyError where a part is missing."""
        parts = (record[name] for name in ("value", "low", "high"))
        return cls(*(np.nan if part is None else float(part) for part in parts))


UNDEFINED = Interval(np.nan, np.nan, np.nan)
FEWEST = 8
"""Observations below which resampling says nothing of what others would have shown."""


def enough(n: int, fewest: int = FEWEST) -> bool:
    """Whether n observations are enough to be resampled.

    Resamples of few cannot spread: two mirrored pairs have the same value each, so that every
    resample agrees. Who knows better, as a test that widens its limits by n, gives another number.
    """
    return n >= fewest


def by_group(values: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Means over the first axis of the rows that belong together; a row a group, by its number.

    Rows of one group are no observations of their own, and are averaged before any resampling.
    """
    named = np.asarray(groups)
    return np.stack([values[named == each].mean(0, dtype=np.float64) for each in np.unique(named)])


def redrawn(
    groups: Int[np.ndarray, " row"], resamples: int, seed: int
) -> Iterator[Int[np.ndarray, " drawn"]]:
    """The rows of as many groups as there are, drawn with replacement, once a resample."""
    members = [np.flatnonzero(groups == each) for each in np.unique(groups)]
    n = len(members)
    for draw in np.random.default_rng(seed).integers(n, size=(resamples, n)):
        yield np.concatenate([members[each] for each in draw])


def shares_drawn(
    groups: Int[np.ndarray, " row"], resamples: int, seed: int
) -> Float[np.ndarray, "resample row"]:
    """The same as each row's share in all that a resample drew, for means as matrix products."""
    place = np.unique(groups, return_inverse=True)[1]
    n = int(place.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    counts: Int[np.ndarray, "resample row"] = drawn[:, place]
    return np.asarray(counts / counts.sum(1, keepdims=True))


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean, as a statistic for `bootstrap`."""
    return np.asarray(np.mean(values, axis))


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *columns: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    fewest: int = FEWEST,
    groups: Int[np.ndarray, " row"] | None = None,
    rate: bool = False,
) -> Interval:
    """Percentile bootstrap of `statistic(*columns, axis=-1)`, resampling the last axis jointly.

    Values that share one of the `groups` are drawn together, for they are one observation. The
    limits are NaN where there are too few to resample, and the value where none varies; but of a
    mean of successes, a `rate`, that is 0 or 1 they are Wilson's: the next may well be otherwise.
    Resamples that leave the statistic undefined do not count.
    """
    value = float(statistic(*columns, axis=-1))
    n = columns[0].shape[-1]
    n_groups = n if groups is None else len(np.unique(groups))
    if not enough(n_groups, fewest) or not np.isfinite(value) or resamples < 1:
        return Interval(value, np.nan, np.nan)
    if all(np.ptp(np.asarray(column, dtype=float)) == 0 for column in columns):
        if rate and value in (0.0, 1.0):
            return wilson(round(value * n_groups), n_groups, level)
        return Interval(value, value, value)
    with warnings.catch_warnings():  # of resamples that leave the statistic undefined
        warnings.simplefilter("ignore")
        if groups is not None and n_groups < n:
            drawn = redrawn(groups, resamples, seed)
            found = [float(statistic(*(x[..., rows] for x in columns), axis=-1)) for rows in drawn]
        else:
            rows = np.random.default_rng(seed).integers(n, size=(resamples, n))
            found = statistic(*(x[..., rows] for x in columns), axis=-1).tolist()
    return percentiles(value, found, level)


def wilson(hits: int, n: int, level: float = 0.95) -> Interval:
    """The share of hits among n (at least one), with Wilson's (1927) interval.

    It has a width also where none or all are hits.
    """
    from scipy import stats

    limits = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return Interval(hits / n, float(limits.low), float(limits.high))


def percentiles(value: float, draws: Sequence[float], level: float = 0.95) -> Interval:
    """The interval that holds the middle share `level` of the draws that are defined."""
    finite = np.asarray([draw for draw in draws if np.isfinite(draw)])
    if len(finite) == 0:
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def bootstrap_means(
    values: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    fewest: int = FEWEST,
    groups: Int[np.ndarray, " example"] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the first axis with its percentile bootstrap limits, for each of many columns.

    Columns are sorted before resampling, so that the limits do not depend on the examples' order,
    but where examples share one of the `groups`: these are drawn together. The limits are NaN
    where there are too few observations to resample.
    """
    n_examples, rest = values.shape[0], values.shape[1:]
    columns = values.reshape(n_examples, -1).astype(np.float64)
    every = np.arange(n_examples)
    n = n_examples if groups is None else len(np.unique(groups))
    if n == n_examples:
        groups, columns = None, np.sort(columns, axis=0)
    centre = columns.mean(0)
    if not enough(n, fewest) or resamples < 1:
        low = high = np.full_like(centre, np.nan)
    else:
        draws = shares_drawn(every if groups is None else groups, resamples, seed) @ columns
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return centre.reshape(rest), low.reshape(rest), high.reshape(rest)


def bootstrap_ratios(
    above: np.ndarray,
    below: np.ndarray,
    defined: float,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    fewest: int = FEWEST,
    groups: Int[np.ndarray, " example"] | None = None,
) -> list[Interval]:
    """For each column of [example column] the mean of `above` over that of `below`.

    Examples are resampled jointly, those of one of the `groups` together. A ratio is undefined
    where the size of what is below is not above `defined`; resamples in which it is do not count.
    """

    def ratios(shares: np.ndarray) -> np.ndarray:
        over, under = shares @ above, shares @ below
        known = np.abs(under) > defined
        return np.where(known, over / np.where(known, under, 1.0), np.nan)

    n_examples = len(above)
    values = ratios(np.full((1, n_examples), 1 / n_examples))[0]
    groups = np.arange(n_examples) if groups is None else groups
    if not enough(len(np.unique(groups)), fewest) or resamples < 1:
        return [Interval(float(value), np.nan, np.nan) for value in values]
    draws = ratios(shares_drawn(groups, resamples, seed))
    return [
        percentiles(float(value), column.tolist(), level) if np.isfinite(value) else UNDEFINED
        for value, column in zip(values, draws.T, strict=True)
    ]
