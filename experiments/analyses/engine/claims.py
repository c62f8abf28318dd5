"""Sentences that follow from numbers: a claim is made, denied or left open by its interval.

A claim states a direction ("heads that are new matter more than random heads"). It is *supported*
where the whole 95 % interval of the difference lies on the stated side of 0, *opposite* where all
of it lies on the other side, and otherwise there is *no evidence*. The sentence says so itself,
with the number, its interval and n, so that no text outlives the numbers it was written for.

Percentile intervals of a handful of values are too narrow: theirs are taken at wider levels here
(Hesterberg 2015, "expanded percentiles"). Fewer than `FEWEST` values, of which even such intervals
miss the mean far more often than they say, have no interval and decide nothing. Of a few relations,
each with facts enough, a claim is about these relations (`across`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import stats

from circuits.base.errors import OptionError
from circuits.base.intervals import (
    UNDEFINED,
    Interval,
    bootstrap,
    enough,
    mean,
    percentiles,
    wilson,
)
from experiments.analyses.engine.tables import shown

_CHOICE = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
FEWEST = 5
"""Values that an interval and a verdict need: five of one sign come by chance in 1 of 16 cases."""


class Verdict(StrEnum):
    """What the numbers say about a claim; MEASURED where a number is stated and nothing claimed."""

    SUPPORTED = "supported"
    NO_EVIDENCE = "no evidence"
    OPPOSITE = "opposite"
    MEASURED = "measured"
    UNDEFINED = "undefined"


@dataclass(frozen=True)
class Claim:
    """A computed sentence with the estimate behind it, in the unit that the sentence names.

    `n` counts the units that the interval resamples (`over` names them).
    """

    sentence: str
    estimate: Interval
    verdict: Verdict
    n: int
    over: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "sentence": self.sentence,
            "estimate": self.estimate.as_dict(),
            "verdict": str(self.verdict),
            "n": self.n,
            "over": self.over,
        }


def judge(estimate: Interval, n: int = FEWEST) -> Verdict:
    """The verdict on "the estimated quantity is above 0", estimated from n values."""
    if not np.isfinite(estimate.value):
        return Verdict.UNDEFINED
    if n < FEWEST or not (np.isfinite(estimate.low) and np.isfinite(estimate.high)):
        return Verdict.NO_EVIDENCE
    if estimate.low > 0:
        return Verdict.SUPPORTED
    return Verdict.OPPOSITE if estimate.high < 0 else Verdict.NO_EVIDENCE


def difference(
    what: str,
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    opposite: str = "",
    paired: bool = True,
    unit: str = "points",
    scale: float = 1.0,
    digits: int | None = None,
    over: str = "facts",
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> Claim:
    """The claim that the mean of a is above the mean of b, with a bootstrap interval.

    `what` is the claim as a clause without capital, in words for either verdict: "heads matter
    [more|less] than MLPs do". `opposite` is the reverse where it is worded otherwise. Values
    are multiplied by `scale` (100 for `points` of percent, with shares between 0 and 1). Paired
    values resample together; `clusters` names the group of each (paired) value, and groups are then
    what is resampled and counted. Fewer groups than `FEWEST` say nothing of others: the values
    within them are resampled then, and the claim is about these groups.
    """
    left, right = np.asarray(a, dtype=float) * scale, np.asarray(b, dtype=float) * scale
    if paired and left.shape != right.shape:
        raise OptionError(f"{len(left)} and {len(right)} values cannot be paired")
    if paired:
        known = np.isfinite(left) & np.isfinite(right)
        groups = (
            None if clusters is None else [c for c, k in zip(clusters, known, strict=True) if k]
        )
        values = left[known] - right[known]
        n = len(set(groups)) if groups is not None else len(values)
        counted = f"n = {so_many(n, over)}"
        if groups is not None and n < FEWEST <= len(values):
            counted = f"n = {len(values)} cases of {so_many(n, over)}"
            groups, n = None, len(values)
        estimate = average(values, groups, seed)
    else:
        left, right = left[np.isfinite(left)], right[np.isfinite(right)]
        estimate = _unpaired(left, right, seed)
        n = min(len(left), len(right))
        counted = f"n = {len(left)} and {so_many(len(right), over)}"
    return claim(
        what, estimate, n, opposite=opposite, unit=unit, digits=digits, over=over, counted=counted
    )


def across(
    what: str,
    units: Sequence[Interval],
    *,
    scale: float = 1.0,
    unit: str = "points",
    over: str = "relations",
    within: str = "facts",
    seed: int = 0,
    **words: Any,
) -> Claim:
    """The claim that a quantity is above 0, from each unit's estimate over its own facts.

    From `FEWEST` units on they are what is resampled, and the claim is about units like these. Of
    fewer it is about these alone: their mean, whose interval combines their own, which must all
    have limits. `words` as in `claim`.
    """
    found = [each for each in units if np.isfinite(each.value)]
    if len(found) >= FEWEST or not found:
        estimate = average([each.value for each in found], seed=seed)
        n, counted = len(found), ""
    else:
        estimate = _these(found)
        n = FEWEST if np.isfinite(estimate.low) else len(found)
        counted = f"n = {so_many(len(found), over)}" + (
            f", over {within} of {'these' if len(found) > 1 else 'this one'}" if n >= FEWEST else ""
        )
    scaled = Interval(*(scale * x for x in vars(estimate).values()))
    told = claim(what, scaled, n, unit=unit, over=over, counted=counted, **words)
    return replace(told, n=len(found))


def _these(units: Sequence[Interval]) -> Interval:
    """The mean of some units with an interval for these units: their errors are independent."""
    value = float(np.mean([each.value for each in units]))
    below = np.array([each.value - each.low for each in units])
    above = np.array([each.high - each.value for each in units])
    return _reaching(value, below / len(units), above / len(units))


def minus(a: Interval, b: Interval) -> Interval:
    """The difference of two estimates whose errors are independent, or at worst uncorrelated."""
    below, above = (a.value - a.low, b.high - b.value), (a.high - a.value, b.value - b.low)
    return _reaching(a.value - b.value, below, above)


def _reaching(
    value: float, below: Sequence[float] | np.ndarray, above: Sequence[float] | np.ndarray
) -> Interval:
    """A sum of independent parts that reach so far below and above their values each.

    The sides are put together apart (Newcombe 1998): the interval of a share near 0 or 1 reaches
    to one side, and so must that of the sum, which would else leave what is possible.
    """
    low, high = value - np.linalg.norm(below), value + np.linalg.norm(above)
    return Interval(value, float(low), float(high))


def above(
    what: str,
    values: Sequence[float] | np.ndarray,
    threshold: float = 0.0,
    **options: object,
) -> Claim:
    """The claim that the mean of the values is above a number; options as in `difference`."""
    array = np.asarray(values, dtype=float)
    return difference(what, array, np.full_like(array, threshold), **options)  # type: ignore[arg-type]


def claim(
    what: str,
    estimate: Interval,
    n: int,
    *,
    opposite: str = "",
    unit: str = "points",
    digits: int | None = None,
    quantity: str = "difference",
    over: str = "facts",
    counted: str = "",
) -> Claim:
    """The claim that an estimate (in `unit`) is above 0, in words as those of `difference`."""
    what, reverse = (_CHOICE.sub(side, what) for side in (r"\1", r"\2"))
    opposite = opposite or (reverse if reverse != what else "")
    verdict = judge(estimate, n)
    counted = counted or f"n = {so_many(n, over)}"
    if verdict == Verdict.UNDEFINED:
        return Claim(f"{_capital(what)}: cannot be said, {counted}.", estimate, verdict, n, over)
    lead = {
        Verdict.SUPPORTED: what,
        Verdict.OPPOSITE: opposite or f"the reverse of “{what}” holds",
        Verdict.NO_EVIDENCE: f"no evidence that {what}"
        if n >= FEWEST
        else f"too few {over} to say whether {what}",
    }[verdict]
    text = f"{_capital(lead)}: {quantity} {in_words(estimate, unit, digits)}, {counted}."
    return Claim(text, estimate, verdict, n, over)


def measured(
    what: str,
    estimate: Interval,
    n: int,
    *,
    unit: str = "",
    digits: int | None = None,
    over: str = "facts",
) -> Claim:
    """A number stated without a claim: "faithfulness of the circuits is 0.94, ..."."""
    verdict = Verdict.MEASURED if np.isfinite(estimate.value) else Verdict.UNDEFINED
    number = in_words(estimate, unit, digits) if verdict == Verdict.MEASURED else "undefined"
    text = f"{_capital(what)} {number}, n = {so_many(n, over)}."
    return Claim(text, estimate, verdict, n, over)


def so_many(n: int, over: str) -> str:
    """So many of what is named in the plural: 1 relation, 2 relations with both."""
    name, *more = over.split(" ")
    return " ".join([str(n), name.removesuffix("s") if n == 1 else name, *more])


def in_words(estimate: Interval, unit: str = "", digits: int | None = None) -> str:
    """`21 points, 95 % interval 12 to 30`."""
    limits = [x for x in (estimate.value, estimate.low, estimate.high) if np.isfinite(x)]
    places = digits if digits is not None else _places(limits)
    text = f"{shown(estimate.value, places)}{f' {unit}' if unit else ''}"
    if not (np.isfinite(estimate.low) and np.isfinite(estimate.high)):
        return f"{text} (too few values for an interval)"
    return f"{text}, 95 % interval {shown(estimate.low, places)} to {shown(estimate.high, places)}"


def average(
    values: Sequence[float] | np.ndarray, clusters: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Mean with a 95 % bootstrap interval; values that are not finite are left out.

    With `clusters` whole groups are resampled, and each value weighs the same. For few values the
    limits are wider percentiles than usual, and NaN for fewer than `FEWEST` values or groups (see
    the module's text).
    """
    array = np.asarray(values, dtype=float)
    known = np.isfinite(array)
    if not known.any():
        return UNDEFINED
    if clusters is None:
        level = widened(int(known.sum()))
        return bootstrap(mean, array[known], seed=seed, level=level, fewest=FEWEST)
    names = np.asarray(clusters)[known]
    array = array[known]
    groups = [array[names == name] for name in dict.fromkeys(names.tolist())]
    sums = np.array([group.sum() for group in groups])
    sizes = np.array([float(len(group)) for group in groups])
    level = widened(len(groups))
    return bootstrap(_ratio_of_sums, sums, sizes, seed=seed, level=level, fewest=FEWEST)


def widened(n: int, level: float = 0.95) -> float:
    """The level of percentiles whose interval covers about `level` for a mean of n values.

    That of Student's t with the bootstrap's missing factor sqrt(n / (n - 1)) (Hesterberg 2015).
    """
    if n < 2:
        return level
    reach = np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1)
    return float(1 - 2 * stats.norm.sf(reach))


def share(hits: Sequence[bool] | np.ndarray) -> Interval:
    """A proportion with Wilson's 95 % interval; undefined of nothing."""
    array = np.asarray(hits, dtype=bool)
    return wilson(int(array.sum()), int(array.size)) if array.size else UNDEFINED


def rate(hits: Sequence[float] | np.ndarray) -> Interval:
    """As `share`, for `across`: without limits for fewer than `FEWEST`."""
    found = share(np.asarray(hits, dtype=bool))
    return found if len(hits) >= FEWEST else Interval(found.value, np.nan, np.nan)


def paired_p(differences: Sequence[float] | np.ndarray, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided sign-flip test of paired differences: how often chance does as much.

    The smallest possible value is 1 / (draws + 1); 1 where nothing differs.
    """
    values = np.asarray(differences, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) == 0 or not values.any():
        return 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(values)))
    reached = np.abs(signs @ values) >= abs(values.sum()) * (1 - 1e-12)
    return float((1 + reached.sum()) / (draws + 1))


def false_discovery(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's (1995) adjusted p: at most q of the findings below q are false."""
    values = np.asarray(p_values, dtype=float)
    return stats.false_discovery_control(values) if len(values) else values


def _ratio_of_sums(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(sums.sum(axis) / sizes.sum(axis))


def _unpaired(left: np.ndarray, right: np.ndarray, seed: int) -> Interval:
    if not len(left) or not len(right):
        return UNDEFINED
    value = float(left.mean() - right.mean())
    if not enough(min(len(left), len(right)), FEWEST):
        return Interval(value, np.nan, np.nan)
    generator = np.random.default_rng(seed)
    draws = [generator.choice(x, size=(1000, len(x))).mean(1) for x in (left, right)]
    level = widened(min(len(left), len(right)))
    return percentiles(value, (draws[0] - draws[1]).tolist(), level)


def _places(limits: Sequence[float]) -> int:
    """Decimals that show the estimate's size and its interval's width."""
    size = max((abs(x) for x in limits), default=0.0)
    if size == 0:
        return 0
    return 0 if size >= 20 else 1 if size >= 2 else 2 if size >= 0.1 else 3


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
