"""What an edit did to the circuit of its own fact, and whether that goes with how the edit fared.

Each case's circuit is found before and after the edit as in `kc compare`: partners are other
subjects of the fact's relation, from the atlas or from the cases that ask in the same words. Over
the cases of a method a quantity of the circuit stands beside an outcome of the edit: their rank
correlation with its bootstrap interval, and the AUC with which the quantity tells cases that fare
well from the others. A method has many such pairs of a quantity and an outcome, and noise would
give evidence of some: a claim needs a permutation test that holds after Benjamini and Hochberg's
adjustment for all pairs of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from circuits.base.errors import OptionError, PromptError
from circuits.base.intervals import UNDEFINED, Interval, enough, percentiles
from circuits.base.plain import number
from circuits.base.ranks import area, spearman
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.judge.measures import Measure
from circuits.facts.facts import atlas
from experiments.analyses.engine.base import Part, Section
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
from experiments.benchmarks.base import Bench
from locate.changes.circuit_layers import same_words
from locate.changes.one_edit import Unedited, unedited
from locate.changes.rewiring_summary import whole_numbers

PARTNERS, DRAWS = 8, 5
QUANTITIES = {
    "changed": "edges changed beyond noise",
    "switched": "heads switched to the new object",
    "recovered": "share undone by old values there",
    "jaccard": "Jaccard of the circuits before and after",
}
OUTCOMES = {
    Measure.EFFICACY: "the edited prompt",
    Measure.PARAPHRASE: "other wordings",
    Measure.PORTABILITY: "what follows",
    Measure.LOCALITY: "the rest as it was",
}
RESAMPLES, PERMUTATIONS = 1000, 19999
WELL = 0.5
"""A case fares well where more of its prompts than this are answered as wanted."""
MOST_FALSE = 0.05
"""Share of a method's claims that may be false."""
LEFT_OUT = "left_out"


def circuit_of(
    bench: Bench, request: EditRequest, delta: WeightDelta, everyone: Sequence[EditRequest]
) -> dict[str, Any]:
    """The quantities of one edit, or under `left_out` why there are none."""
    try:
        before = bench.once(("unedited", request), lambda: _unedited(bench, request, everyone))
    except (OptionError, PromptError) as error:
        return {LEFT_OUT: str(error)}
    numbers = whole_numbers(before.rewired(delta, DRAWS))
    return {name: numbers[name] for name in QUANTITIES}


def _unedited(bench: Bench, request: EditRequest, everyone: Sequence[EditRequest]) -> Unedited:
    return unedited(
        bench.model,
        request,
        partners=PARTNERS,
        others=None if request.relation in atlas() else same_words(request, everyone),
        seed=bench.seed,
        batch_size=bench.context.batch_size,
    )


# --- report --------------------------------------------------------------------------------------


def section(methods: Mapping[str, Sequence[Part]]) -> tuple[Section, ...]:
    """The section of the report; none where no circuit was looked at."""
    rows: list[list[Any]] = []
    claims: list[Claim] = []
    left_out = 0
    for name, units in methods.items():
        looked = [unit for unit in units if unit.get("circuit") and unit["scores"]]
        left_out += sum(LEFT_OUT in unit["circuit"] for unit in looked)
        used = [unit for unit in looked if LEFT_OUT not in unit["circuit"]]
        pairs = {
            (words, meaning): both
            for measure, words in OUTCOMES.items()
            for quantity, meaning in QUANTITIES.items()
            if len((both := _both(used, quantity, measure))[0]) >= 3
        }
        claims += beside_outcomes(name, pairs)
        for (words, meaning), (values, outcome) in pairs.items():
            found = rank_correlation(values, outcome), auc(values, outcome > WELL)
            rows.append([name, words, meaning, len(values), *found])
    if not rows and not left_out:
        return ()
    columns = (
        "method",
        "outcome in free generation",
        "of the circuit",
        "cases",
        "rank correlation",
        "AUC",
    )
    table = Table(
        "circuits",
        columns,
        rows,
        title="Which changes of the circuit go with the outcome",
        note="Spearman's, and the share of pairs of a case that fares well and one that does not "
        "in which the first has more (0.5: chance), with 95 % bootstrap intervals over cases; "
        "undefined where all cases are alike. No single interval of so many is evidence: the "
        "claims are made of all of a method's together.",
    )
    text = f"{left_out} edits have too few partners for a circuit." if left_out else ""
    return (Section("The circuit beside the outcome", text, (table,), tuple(claims)),)


def _both(units: Sequence[Part], quantity: str, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """The quantity and the outcome, of the cases that have both."""
    outcome = _outcome(units, measure)
    values = np.array([number(unit["circuit"][quantity]) for unit in units])
    known = np.isfinite(outcome) & np.isfinite(values)
    return values[known], outcome[known]


def _outcome(units: Sequence[Part], measure: Measure) -> np.ndarray:
    """Mean over a case's requests, in free generation; NaN where a case has no such prompt."""
    found = []
    for unit in units:
        rates = [score["after"].get(str(measure)) for score in unit["scores"]]
        known = [number(each["generation"]) for each in rates if each is not None]
        found.append(float(np.mean(known)) if known else np.nan)
    return np.array(found)


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
    rows = np.tile(well.astype(float), (PERMUTATIONS, 1))
    shuffled = np.random.default_rng(seed).permuted(rows, axis=1)
    expected = many * (len(values) + 1) / 2
    reached = abs(float(ranks[well].sum()) - expected)  # the AUC is a linear function of the sum
    by_chance = np.abs(shuffled @ ranks - expected)
    return float((1 + (by_chance >= reached - 1e-9).sum()) / (PERMUTATIONS + 1))


def beside_outcomes(
    name: str, pairs: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
) -> list[Claim]:
    """For each outcome and quantity of a method, whether the quantity tells who fares well.

    `pairs` has values and outcomes by (outcome, quantity) in words. Where all cases fare alike
    there is no claim.
    """
    mixed = {
        key: (values, outcome > WELL)
        for key, (values, outcome) in pairs.items()
        if 0 < (outcome > WELL).sum() < len(outcome)
    }
    adjusted = false_discovery([permutation_p(*both) for both in mixed.values()])
    return [
        _claim(
            f"after {name}, edits that fare well on {words} are [higher|lower] in {meaning}",
            auc(values, well),
            len(values),
            float(p),
        )
        for ((words, meaning), (values, well)), p in zip(mixed.items(), adjusted, strict=True)
    ]


def _claim(what: str, found: Interval, n: int, p: float) -> Claim:
    """The claim that an AUC is above chance, which its adjusted p must bear out too."""
    beyond = Interval(*(x - 0.5 for x in vars(found).values()))
    made = claim(what, beyond, n, quantity="AUC above chance by", unit="", over="cases")
    if made.verdict not in (Verdict.SUPPORTED, Verdict.OPPOSITE) or p < MOST_FALSE:
        return made
    direction = what.replace("[higher|lower]", "higher" if beyond.value > 0 else "lower")
    text = (
        f"No evidence that {direction}: AUC above chance by {in_words(beyond)}, but p = {p:.2g} "
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
