"""How much of the differences between many results goes with one choice.

The results are vectors (which edges are kept, ranks, one number), their differences squared
distances, and a choice's part is the sum of squares between its levels over the whole sum, as in an
analysis of variance by distances (Anderson 2001). Of a handful of results any choice would explain
something by chance; the part here is corrected for that (epsilon squared, Kelley 1935), so that it
is 0 on average where a choice does nothing, and can fall below. Choices are drawn independently,
so that one may be looked at after the other, but for combinations that are impossible and drawn
again: of choices that exclude each other, as a metric and a locator, each has a part of what is the
other's. What is left to 100 % is what they do together, and chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from circuits.base.intervals import Interval

_NORMAL = 1.959964
"""Half the width of a 95 % interval in standard errors."""


def products(results: Float[np.ndarray, "draw feature"]) -> Float[np.ndarray, "draw draw"]:
    """Scalar products of the results less their mean: all that the parts need of them."""
    apart = np.asarray(results - results.mean(0), dtype=np.float64)
    return apart @ apart.T


def part(gram: Float[np.ndarray, "draw draw"], levels: Sequence[str]) -> float:
    """The corrected share of the sum of squares between levels; NaN where it has no meaning.

    `gram` as `products` makes it, of these results or of more; it is centred here.
    """
    names = np.asarray(levels)
    kinds = list(dict.fromkeys(levels))
    n, within = len(names), len(names) - len(kinds)
    means = gram.mean(0)
    centred = gram - means[:, None] - means[None, :] + means.mean()
    total = float(np.trace(centred))
    scale = float(np.abs(gram).max(initial=0.0))
    if len(kinds) < 2 or within < 1 or total <= 1e-12 * n * scale:
        return float("nan")
    between = 0.0
    for kind in kinds:
        own = names == kind
        between += float(centred[np.ix_(own, own)].sum()) / int(own.sum())
    chance = (len(kinds) - 1) * (total - between) / within
    return (between - chance) / total


def part_interval(
    gram: Float[np.ndarray, "draw draw"],
    levels: Sequence[str],
    against: Sequence[str] | None = None,
) -> Interval:
    """The part, or how much more it is than another choice's, with a 95 % interval over draws.

    By the jackknife: a bootstrap would draw results twice, which makes levels look alike. Two parts
    of the same draws move together, so that the difference has an interval of its own.
    """

    def of(places: Sequence[int]) -> float:
        own = gram[np.ix_(places, places)]
        found = part(own, [levels[place] for place in places])
        return found if against is None else found - part(own, [against[at] for at in places])

    n = len(levels)
    value = of(range(n))
    found = np.array([of([place for place in range(n) if place != out]) for out in range(n)])
    if not (np.isfinite(value) and np.isfinite(found).all()):
        return Interval(value, float("nan"), float("nan"))
    reach = _NORMAL * float(np.sqrt((n - 1) / n * ((found - found.mean()) ** 2).sum()))
    return Interval(value, value - reach, value + reach)
