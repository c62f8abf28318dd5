"""Stored units of the unlearning benchmarks as a report reads them: estimates with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from circuits.base.intervals import UNDEFINED, Interval, bootstrap, percentiles
from circuits.base.plain import number
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.claims import average, widened
from experiments.analyses.engine.names import named
from experiments.benchmarks.base import NO_EDIT
from experiments.benchmarks.unlearning.measures import Scored, truthful, utility

BEFORE, AFTER, CONTROL = "before", "after", "control"
RESAMPLES = 1000
KNOWN = 0.5
"""Mean token accuracy below which a model is said not to have known a set."""


_COLUMNS = fields(Scored)


class Domain:
    """One domain's units: the scores by method, side and set."""

    def __init__(self, name: str, parts: Mapping[str, Part]) -> None:
        self.name = name
        units = {each["method"]: each["domains"][name] for each in parts.values()}
        self.units: dict[str, Any] = units
        self.any = next(iter(units.values()))
        self.before = _sides(self.any[BEFORE])
        self.methods = [method for method in units if method != NO_EDIT]

    def side(self, method: str, side: str) -> Mapping[str, Scored]:
        """A method's scores by set; none where it came to nothing."""
        stored = self.units[method].get(side)
        return _sides(stored) if stored else {}

    def sides(self) -> list[tuple[str, Mapping[str, Scored], str]]:
        """The rows of a table: what stands in them, its scores, and its outcome."""
        rows: list[tuple[str, Mapping[str, Scored], str]] = [("unedited", self.before, "")]
        for method in self.methods:
            status = self.units[method]["status"]
            rows.append((named(method), self.side(method, AFTER), status))
            if beside := self.side(method, CONTROL):
                rows.append((f"random change as {named(method)}'s", beside, ""))
        return rows

    def lost(self, method: str, side: str, split: str, column: str) -> np.ndarray:
        """By how much a column of a set fell, row by row; empty where there is nothing."""
        after = self.side(method, side)
        if split not in after or split not in self.before:
            return np.array([])
        return np.array(getattr(self.before[split], column)) - getattr(after[split], column)

    def knew(self, split: str) -> float:
        """Mean token accuracy of a set before; NaN where it is not there."""
        return mean(self.before, split, "accuracy").value

    def notes(self, split: str) -> str:
        """What was left out, what was not known, and which methods came to nothing."""
        told = []
        known = self.knew(split)
        if known < KNOWN:
            told.append(
                f"The model did not know these answers before ({100 * known:.0f} % of their "
                "tokens): there was little to forget, and what is measured as forgetting says "
                "nothing of the methods."
            )
        asked, found = self.any["neither"]["asked"], self.any["neither"]["known"]
        if asked:
            told.append(f"Of neither set {found} facts are scored, known among {asked} asked.")
        left_out = self.any["left_out"]
        if left_out:
            first = left_out[0]
            told.append(
                f"{len(left_out)} rows are left out, the first is row {first['row']} of "
                f"{first['path']}: {first['reason']}."
            )
        failed = [f"{named(m)}: {self.units[m]['reason']}" for m in self.methods if self._none(m)]
        told += [f"No change came of {'; '.join(failed)}."] if failed else []
        return " ".join(told)

    def _none(self, method: str) -> bool:
        return AFTER not in self.units[method]


def domains(parts: Mapping[str, Part]) -> list[Domain]:
    """Every domain of the units, in order."""
    names = dict.fromkeys(name for each in parts.values() for name in each["domains"])
    return [Domain(name, parts) for name in names]


def scored_from(stored: Mapping[str, Any]) -> Scored:
    """Scores from their JSON."""
    own: dict[str, Any] = {each.name: tuple(map(number, stored[each.name])) for each in _COLUMNS}
    return Scored(**{**own, "tokens": tuple(map(int, stored["tokens"]))})


def _sides(stored: Mapping[str, Any]) -> dict[str, Scored]:
    return {name: scored_from(each) for name, each in stored.items()}


# --- estimates -----------------------------------------------------------------------------------


def mean(
    sets: Mapping[str, Scored],
    split: str,
    column: str,
    change: Callable[[float], float] = lambda x: x,
) -> Interval:
    """The mean of a set's column, each value changed first, with its interval over rows."""
    if split not in sets:
        return UNDEFINED
    return average([change(value) for value in getattr(sets[split], column)])


def perplexity_interval(sets: Mapping[str, Scored], split: str, by_token: bool) -> Interval:
    """A set's perplexity with its interval over rows.

    exp(-mean over rows of the row's mean log-probability a token), as KnowUnDo's script has it:
    each row counts alike, however long. With `by_token` exp(-sum of log-probabilities / number of
    tokens), perplexity as it is defined.
    """
    if split not in sets:
        return UNDEFINED
    log_p, tokens = np.array(sets[split].mean_log_p), np.array(sets[split].tokens, dtype=float)
    weights = tokens if by_token else np.ones_like(tokens)
    level = widened(len(log_p))
    return bootstrap(_weighted, log_p * weights, weights, level=level, fewest=2)


def _weighted(sums: np.ndarray, weights: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(np.exp(-sums.sum(axis) / weights.sum(axis)))


def _means(drawn: np.ndarray) -> np.ndarray:
    """The mean of each row's values that are there; NaN where there is none."""
    there = np.isfinite(drawn)
    counts = there.sum(1)
    sums = np.where(there, drawn, 0.0).sum(1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def utility_interval(sets: Mapping[str, Scored], kept: Sequence[str], script: bool) -> Interval:
    """Model utility of the sets to keep; rows are drawn anew within each set."""
    own = {name: sets[name] for name in kept if name in sets}
    if not own:
        return UNDEFINED
    value = utility(own, script)
    generator = np.random.default_rng(0)
    draws = []
    for each in own.values():
        ratios = each.truth_ratio_script if script else each.truth_ratio
        columns = [each.probability, each.rouge, [truthful(x) for x in ratios]]
        places = generator.integers(0, len(each.rouge), size=(RESAMPLES, len(each.rouge)))
        known = [np.asarray(x, dtype=float) for x in columns if np.isfinite(x).any()]
        draws += [_means(column[places]) for column in known]
    parts = np.array(draws)
    parts = parts[:, np.isfinite(parts).all(0)]  # a draw may have no row with a truth ratio
    found = np.where((parts <= 0).any(0), 0.0, len(parts) / (1 / np.maximum(parts, 1e-300)).sum(0))
    fewest = min(len(each.rouge) for each in own.values())
    return percentiles(value, found.tolist(), widened(fewest))
