"""The stored parts of `edit-effects` as rows, one an edit, and what can be told from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.base.intervals import Interval, enough, percentiles
from circuits.base.plain import number
from circuits.base.ranks import area, spearman
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.claims import FEWEST, Claim, average, difference, widened
from experiments.analyses.engine.groups import BY_ROLE
from experiments.analyses.engine.names import named

OVER = "facts"
PLACES = ("early", "usual", "late")
RESAMPLES = 1000


@dataclass(frozen=True)
class Row:
    """One edit of one fact; `effect` is None where there is no edit (it failed, or diverged)."""

    fact: str
    method: str
    place: str
    layer: int
    in_circuit: float
    unedited: Mapping[str, Any]
    effect: Mapping[str, Any] | None
    control: Mapping[str, Any] | None

    @property
    def success(self) -> float:
        """1 where the new object's first token comes out on top, else 0."""
        return self.rate("edit", "new")

    @property
    def probability(self) -> float:
        """The new object's probability after the edit."""
        return self.rate("edit", "p_new")

    def rate(self, kind: str, what: str) -> float:
        """A rate over the prompts of a kind after the edit; NaN where there are none."""
        rates = self.unedited["known"] if self.effect is None else self.effect["rates"]
        return number(rates[kind][what]) if kind in rates else np.nan

    def before(self, kind: str, what: str) -> float:
        """The same in the unedited model."""
        rates = self.unedited["known"]
        return number(rates[kind][what]) if kind in rates else np.nan

    def of(self, what: str, side: str = "effect") -> float:
        """A number of the effect or of the control edit; NaN where there is none."""
        found = self.effect if side == "effect" else self.control
        return np.nan if found is None else number(found[what])

    def swing(self, group: str, side: str = "effect") -> float:
        """By how many logits a group's words moved from the old to the new object.

        NaN where there is none, and of kinds of heads where no head is known to be a mover.
        """
        if group in BY_ROLE and not self.unedited["movers"]:
            return np.nan
        found = self.effect if side == "effect" else self.control
        return np.nan if found is None else number(found["swing"][group])


def rows_of(parts: Mapping[str, Part]) -> list[Row]:
    """All edits of all facts."""
    return [
        Row(
            fact=key,
            method=each["method"],
            place=each["place"],
            layer=each["layer"],
            in_circuit=number(each["in_circuit"]),
            unedited=part["unedited"],
            effect=each["effect"],
            control=each["control"],
        )
        for key, part in parts.items()
        for each in part["edits"]
    ]


def chosen(rows: Sequence[Row], method: str | None = None, place: str | None = None) -> list[Row]:
    """The rows of a method, of a place, or of both."""
    return [
        row
        for row in rows
        if (method is None or row.method == method) and (place is None or row.place == place)
    ]


Read = Callable[[Row], float]
"""What takes one number from an edit."""


def numbers(rows: Sequence[Row], read: Read) -> np.ndarray:
    """One number a row."""
    return np.array([read(row) for row in rows], dtype=float)


def effect(what: str, side: str = "effect") -> Read:
    """A reader of a number of the effect, or of the control edit."""
    return lambda row: row.of(what, side)


def swing(group: str, side: str = "effect") -> Read:
    """A reader of what a group's words moved from the old to the new object."""
    return lambda row: row.swing(group, side)


def rate(kind: str, what: str) -> Read:
    """A reader of a rate after the edit."""
    return lambda row: row.rate(kind, what)


def before(kind: str, what: str) -> Read:
    """A reader of a rate in the unedited model."""
    return lambda row: row.before(kind, what)


def mean(rows: Sequence[Row], read: Read) -> Interval:
    """The mean over rows with its interval."""
    return average(numbers(rows, read))


def column(read: Read) -> Callable[[Any, Sequence[Row]], Interval]:
    """A column of a table that has a row for each of some groups of edits."""
    return lambda _, own: mean(own, read)


def cells(rows: Sequence[Row], methods: Sequence[str]) -> dict[tuple[str, str], list[Row]]:
    """The edits by method and place, as the rows of a table."""
    return {(m, place): chosen(rows, m, place) for m in methods for place in PLACES}


WHERE: dict[str, Callable[[tuple[str, str], Any], str]] = {
    "method": lambda cell, _: named(cell[0]),
    "edited at": lambda cell, _: cell[1],
}
"""The first columns of a table of `cells`."""


def compared(
    what: str, rows: Sequence[Row], left: Read, right: Read, by_fact: bool = True, **options: Any
) -> Claim:
    """The claim that one number of the edits is above another; facts are resampled whole."""
    clusters = [row.fact for row in rows] if by_fact else None
    sides = numbers(rows, left), numbers(rows, right)
    return difference(what, *sides, over=OVER, clusters=clusters, **options)


def separation(scores: np.ndarray, success: np.ndarray) -> float:
    """The area under the ROC curve: how often a success has the higher score (ties count half).

    0.5 is chance; NaN where all succeed or all fail.
    """
    return float(area(scores, success > 0.5))


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation; NaN of fewer than three, and where one side is constant."""
    return float(spearman(left, right)) if len(left) >= 3 else float("nan")


def within(rows: Sequence[Row], statistic: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """The mean over methods and places of a statistic of in-circuit score and probability.

    Layer and method are the same within each, so that only the facts differ.
    """
    found = []
    for cell in dict.fromkeys((row.method, row.place) for row in rows):
        own = chosen(rows, *cell)
        found.append(
            statistic(
                numbers(own, lambda row: row.in_circuit), numbers(own, lambda row: row.probability)
            )
        )
    defined = [each for each in found if np.isfinite(each)]
    return float(np.mean(defined)) if defined else float("nan")


def over_facts(
    rows: Sequence[Row], statistic: Callable[[Sequence[Row]], float], seed: int = 0
) -> Interval:
    """A statistic of all edits with a 95 % interval, facts resampled with all their edits.

    The limits are NaN for fewer than `FEWEST` facts.
    """
    by_fact: dict[str, list[Row]] = {}
    for row in rows:
        by_fact.setdefault(row.fact, []).append(row)
    groups = list(by_fact.values())
    value = statistic(rows)
    if not enough(len(groups), FEWEST):
        return Interval(value, np.nan, np.nan)
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        picks = generator.integers(len(groups), size=len(groups))
        draws.append(statistic([row for pick in picks for row in groups[pick]]))
    return percentiles(value, draws, widened(len(groups)))
