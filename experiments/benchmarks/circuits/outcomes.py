"""Whether what a method did to the circuit of a fact goes with what became of the fact.

Over the cases of a method a quantity of the circuit stands beside an outcome: their rank
correlation with its bootstrap interval, and the AUC with which the quantity tells cases on one side
of a threshold from the others. All quantities together predict the outcome of cases that they were
not fitted on. A method has many such questions, and noise would give evidence of some: a claim
needs a permutation test that holds after Benjamini and Hochberg's adjustment for all of the
method's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from circuits.base.intervals import FEWEST, UNDEFINED, Interval, enough, percentiles
from circuits.base.plain import number
from circuits.base.ranks import area, spearman
from experiments.analyses.engine.base import Section
from experiments.analyses.engine.claims import (
    Claim,
    Verdict,
    claim,
    false_discovery,
    in_words,
    so_many,
    widened,
)
from experiments.analyses.engine.tables import Table
from experiments.benchmarks.circuits.rewired import LEFT_OUT, QUANTITIES

RESAMPLES, PERMUTATIONS = 1000, 19999
WELL = 0.5
MOST_FALSE = 0.05
"""Share of a method's claims that may be false."""
RIDGE = 1.0
"""Penalty of the joint prediction, on standardised ranks: that of one case of unit spread."""
TOGETHER = "all of them together, in cases left out"


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `key` in its record, in `words`.

    `those` names the cases that have more of it than `above`, or than the median where that is
    None.
    """

    key: str
    words: str
    those: str
    above: float | None = WELL

    def split(self, outcome: Float[np.ndarray, " case"]) -> Bool[np.ndarray, " case"]:
        """Which cases those are."""
        return np.asarray(outcome > (np.median(outcome) if self.above is None else self.above))


@dataclass(frozen=True)
class Looked:
    """A case's quantities, or why it has none, and its outcomes by key."""

    circuit: Mapping[str, Any]
    outcomes: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Beside:
    """Quantities and an outcome of the cases that have it; a quantity may be undefined (NaN)."""

    outcome: Outcome
    quantities: Mapping[str, Float[np.ndarray, " case"]]
    values: Float[np.ndarray, " case"]

    def each(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Every quantity in words, with its values and the outcomes of the cases that have both."""
        found = []
        for name, values in self.quantities.items():
            known = np.isfinite(values)
            if known.sum() >= 3:
                found.append((QUANTITIES[name], values[known], self.values[known]))
        return found


def section_of(
    methods: Mapping[str, Sequence[Looked]],
    outcomes: Sequence[Outcome],
    text: str,
    domain: str = "",
) -> tuple[Section, ...]:
    """The section of a report; none where no circuit was looked at.

    `text` says whose circuit it is, and `domain` which of several such sections of a page this is.
    """
    rows: list[list[Any]] = []
    claims: list[Claim] = []
    left_out = 0
    for name, looked in methods.items():
        left_out += sum(LEFT_OUT in each.circuit for each in looked)
        used = [each for each in looked if LEFT_OUT not in each.circuit]
        beside = [found for each in outcomes if (found := _beside(used, each)) is not None]
        claims += beside_outcomes(name, [each for each in beside if enough(len(each.values))])
        for each in beside:
            words = each.outcome.words
            if np.ptp(each.values) == 0:
                continue
            for meaning, values, outcome in each.each():
                correlation = rank_correlation(values, outcome)
                area_under = auc(values, each.outcome.split(outcome))
                rows.append([name, words, meaning, len(values), correlation, area_under])
            predicted, _ = together(each.quantities, each.values)
            rows.append([name, words, TOGETHER, len(each.values), predicted, None])
    if not any(methods.values()):
        return ()
    columns = ("method", "outcome", "of the circuit", "cases", "rank correlation", "AUC")
    table = Table(
        f"{domain}-circuits" if domain else "circuits",
        columns,
        rows,
        title="Which changes of the circuit go with the outcome",
        note="Spearman's, and the share of pairs of a case with much of the outcome and one with "
        "little in which the first has more of the quantity (0.5: chance), with 95 % bootstrap "
        "intervals over cases. An outcome in which all cases are alike is left out. Together: a "
        "linear fit of ranks predicts each case from the others. No single interval of so many is "
        "evidence: the claims are made of all of a method's together.",
    )
    if rows and not claims:
        text += f" Nothing is claimed of fewer than {FEWEST} cases, or of cases that are all alike."
    if left_out:
        text += f" {left_out} circuits cannot be found, of a case and a method each: there are too "
        text += "few partners, nothing was changed, or scores are not finite."
    title = "The circuit beside the outcome" + (f" in {domain}" if domain else "")
    return (Section(title, text, (table,), tuple(claims)),)


def _beside(looked: Sequence[Looked], outcome: Outcome) -> Beside | None:
    """The cases that have the outcome; None for fewer than three."""
    values = np.array([each.outcomes.get(outcome.key, np.nan) for each in looked], dtype=float)
    known = np.isfinite(values)
    if known.sum() < 3:
        return None
    quantities = {
        name: np.array([number(each.circuit[name]) for each in looked])[known]
        for name in QUANTITIES
    }
    return Beside(outcome, quantities, values[known])


def rank_correlation(values: np.ndarray, outcome: np.ndarray, seed: int = 0) -> Interval:
    """Spearman's correlation, with limits over resampled cases; undefined where either is constant.

    Resamples in which either is constant say nothing and are left out. For few cases the limits are
    wider percentiles, as of every mean; fewer than `circuits.base.intervals.FEWEST` have none.
    """
    if np.ptp(values) == 0 or np.ptp(outcome) == 0:
        return UNDEFINED
    return _resampled(spearman, values, outcome, seed)


def auc(values: np.ndarray, well: np.ndarray, seed: int = 0) -> Interval:
    """How often a case that fares well has more than one that does not; ties count one half.

    0.5 is chance. Limits as in `rank_correlation`; undefined where all cases fare alike.
    """
    if well.all() or not well.any():
        return UNDEFINED
    return _resampled(area, values, well, seed)


def permutation_p(values: np.ndarray, well: np.ndarray, seed: int = 0) -> float:
    """Two-sided: how often shuffled outcomes have an AUC as far from chance."""
    ranks, many = stats.rankdata(values), int(well.sum())
    expected = many * (len(values) + 1) / 2
    reached = abs(float(ranks[well].sum()) - expected)  # the AUC is a linear function of the sum
    by_chance = np.abs(_shuffled(well.astype(float), seed) @ ranks - expected)
    return float((1 + (by_chance >= reached - 1e-9).sum()) / (PERMUTATIONS + 1))


def together(
    quantities: Mapping[str, Float[np.ndarray, " case"]],
    outcome: Float[np.ndarray, " case"],
    seed: int = 0,
) -> tuple[Interval, float]:
    """How well all quantities predict the outcome of cases left out, and p by permutation.

    Ridge regression on standardised ranks predicts each case from all others: with H the hat
    matrix and y centred on the others, the prediction of case i is
    (sum over j ≠ i of H_ij y_j) / (1 − H_ii). The number is the correlation of predicted and true
    ranks, with limits over resampled cases; p is the share of shuffled outcomes that are predicted
    as well. A quantity that is undefined in a case stands at its mean there. Undefined, with
    p = 1, where nothing varies.
    """
    known = [np.isfinite(each) for each in quantities.values()]
    columns = [
        _standard(stats.rankdata(each[there])) if there.any() and np.ptp(each[there]) else None
        for each, there in zip(quantities.values(), known, strict=True)
    ]
    filled = []
    for ranks, there in zip(columns, known, strict=True):
        if ranks is not None:
            column = np.zeros(len(outcome))
            column[there] = ranks
            filled.append(column)
    if not filled or np.ptp(outcome) == 0:
        return UNDEFINED, 1.0
    x, y = np.stack(filled, 1), _standard(stats.rankdata(outcome))
    hat = x @ np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T)
    own = np.diag(hat)
    # The last term centres on the others: y as a whole sums to 0, so that these lean the other way.
    from_others = (hat - np.diag(own) - np.diag(own / (len(y) - 1))) / (1 - own)[:, None]
    predicted = from_others @ y
    if np.ptp(predicted) < 1e-12:
        return UNDEFINED, 1.0
    found = _resampled(_correlation, predicted, y, seed)
    shuffled = _shuffled(y, seed)
    by_chance = _correlation(shuffled @ from_others.T, shuffled)
    reached = (by_chance >= found.value - 1e-9).sum()
    return found, float((1 + reached) / (PERMUTATIONS + 1))


def _standard(ranks: Float[np.ndarray, " case"]) -> Float[np.ndarray, " case"]:
    return np.asarray((ranks - ranks.mean()) / ranks.std())


def _shuffled(values: Float[np.ndarray, " case"], seed: int) -> Float[np.ndarray, "draw case"]:
    rows = np.tile(values, (PERMUTATIONS, 1))
    return np.random.default_rng(seed).permuted(rows, axis=1)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's over the last axis; NaN where either is constant."""
    one, other = (each - each.mean(-1, keepdims=True) for each in (one, other))
    size = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    product = (one * other).sum(-1)
    return np.asarray(np.divide(product, size, out=np.full_like(size, np.nan), where=size > 1e-12))


def beside_outcomes(name: str, found: Sequence[Beside]) -> list[Claim]:
    """For each outcome of a method and each quantity, whether the quantity tells who has much.

    And whether all of them together predict it. Where all cases are alike there is no claim.
    """
    asked: list[tuple[str, Interval, int, float, bool]] = []
    for beside in found:
        those, words = beside.outcome.those, beside.outcome.words
        for meaning, values, outcome in beside.each():
            much = beside.outcome.split(outcome)
            if 0 < much.sum() < len(much):
                what = f"after {name}, {those} are [higher|lower] in {meaning}"
                p = permutation_p(values, much)
                asked.append((what, auc(values, much), len(values), p, True))
        what = f"after {name}, these changes together predict “{words}” in cases left out"
        estimate, p = together(beside.quantities, beside.values)
        if np.isfinite(estimate.value):
            asked.append((what, estimate, len(beside.values), p, False))
    adjusted = false_discovery([p for *_, p, _ in asked])
    return [
        _claim(what, estimate, n, float(p), of_auc)
        for (what, estimate, n, _, of_auc), p in zip(asked, adjusted, strict=True)
    ]


def _claim(what: str, found: Interval, n: int, p: float, of_auc: bool) -> Claim:
    """The claim that a number is above chance, which its adjusted p must bear out too."""
    quantity = "AUC above chance by" if of_auc else "rank correlation"
    beyond = Interval(*(x - 0.5 for x in vars(found).values())) if of_auc else found
    made = claim(what, beyond, n, quantity=quantity, unit="", over="cases")
    if made.verdict not in (Verdict.SUPPORTED, Verdict.OPPOSITE) or p < MOST_FALSE:
        return made
    direction = what.replace("[higher|lower]", "higher" if beyond.value > 0 else "lower")
    text = (
        f"No evidence that {direction}: {quantity} {in_words(beyond)}, but p = {p:.2g} "
        f"among all such questions, n = {so_many(n, 'cases')}."
    )
    return replace(made, sentence=text, verdict=Verdict.NO_EVIDENCE)


def _resampled(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    values: np.ndarray,
    outcome: np.ndarray,
    seed: int,
) -> Interval:
    value, n = float(statistic(values, outcome)), len(values)
    if not enough(n):
        return Interval(value, np.nan, np.nan)
    picks = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    return percentiles(value, statistic(values[picks], outcome[picks]).tolist(), widened(n))
