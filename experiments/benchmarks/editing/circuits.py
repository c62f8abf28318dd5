"""What an edit did to the circuit of its own fact, and whether that goes with how the edit fared.

Each case's circuit is found before and after the edit as in `kc compare`: partners are other
subjects of the fact's relation, from the atlas or from the cases that ask in the same words. Over
the cases of a method a quantity of the circuit stands beside an outcome of the edit: their rank
correlation with its bootstrap interval, and a prediction that is made for each case from the
others, beside always guessing the commoner outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from circuits.base.errors import OptionError, PromptError
from circuits.base.intervals import UNDEFINED, Interval, percentiles
from circuits.base.plain import number
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.judge.measures import Measure
from circuits.facts.facts import atlas
from experiments.analyses.engine.base import Part, Section
from experiments.analyses.engine.claims import Claim, difference
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
RESAMPLES = 1000
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
        for measure, words in OUTCOMES.items():
            outcome = _outcome(used, measure)
            for quantity, meaning in QUANTITIES.items():
                values = np.array([number(unit["circuit"][quantity]) for unit in used])
                both = np.isfinite(outcome) & np.isfinite(values)
                if both.sum() < 3:
                    continue
                found = rank_correlation(values[both], outcome[both])
                rows.append([name, words, meaning, int(both.sum()), found])
                claims += _predicts(name, words, meaning, values[both], outcome[both])
    if not rows and not left_out:
        return ()
    columns = (
        "method",
        "outcome in free generation",
        "of the circuit",
        "cases",
        "rank correlation",
    )
    table = Table(
        "circuits",
        columns,
        rows,
        title="Which changes of the circuit go with the outcome",
        note="Spearman's, with 95 % bootstrap intervals over cases; undefined where all cases are "
        "alike. An interval that holds 0 is no evidence.",
    )
    text = f"{left_out} edits have too few partners for a circuit." if left_out else ""
    return (Section("The circuit beside the outcome", text, (table,), tuple(claims)),)


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

    Resamples in which either is constant say nothing and are left out.
    """
    if np.ptp(values) == 0 or np.ptp(outcome) == 0:
        return UNDEFINED
    generator = np.random.default_rng(seed)
    drawn = []
    for picks in generator.integers(len(values), size=(RESAMPLES, len(values))):
        one, other = values[picks], outcome[picks]
        if np.ptp(one) and np.ptp(other):
            drawn.append(float(stats.spearmanr(one, other).statistic))
    return percentiles(float(stats.spearmanr(values, outcome).statistic), drawn)


def _predicts(
    name: str, words: str, meaning: str, values: np.ndarray, outcome: np.ndarray
) -> list[Claim]:
    """That the quantity tells better than guessing which cases fare well; none where all do."""
    well = outcome > 0.5
    if well.all() or not well.any():
        return []
    told, guessed = held_out_hits(values, well)
    return [
        difference(
            f"after {name}, {meaning} tell [better|worse] than guessing which cases fare well on "
            f"{words}",
            told,
            guessed,
            scale=100,
            over="cases",
        )
    ]


def held_out_hits(values: np.ndarray, well: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each case, whether the others' best threshold is right of it, and their commoner outcome.

    The threshold, midway between two values, and its direction are those with most hits among the
    other cases; ties go to the first.
    """
    told, guessed = np.zeros(len(values)), np.zeros(len(values))
    for case in range(len(values)):
        others = np.arange(len(values)) != case
        x, y = values[others], well[others]
        guessed[case] = (y.mean() >= 0.5) == well[case]
        seen = np.unique(x)
        if len(seen) < 2:
            told[case] = guessed[case]
            continue
        cuts = (seen[1:] + seen[:-1]) / 2
        hits = np.array([[((x >= cut) == y).mean(), ((x < cut) == y).mean()] for cut in cuts])
        best, below = np.unravel_index(hits.argmax(), hits.shape)
        said = values[case] < cuts[best] if below else values[case] >= cuts[best]
        told[case] = said == well[case]
    return told, guessed
