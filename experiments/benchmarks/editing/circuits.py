"""The circuit of each edited fact beside how its edit fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from circuits.base.plain import number
from circuits.edits.judge.measures import Measure
from experiments.analyses.engine.base import Part, Section
from experiments.benchmarks.circuits.outcomes import Looked, Outcome, section_of

OUTCOMES = tuple(
    Outcome(str(measure), words, f"edits that fare well on {words}")
    for measure, words in {
        Measure.EFFICACY: "the edited prompt",
        Measure.PARAPHRASE: "other wordings",
        Measure.PORTABILITY: "what follows",
        Measure.LOCALITY: "the rest as it was",
    }.items()
)
TEXT = (
    "The circuit is that of the edited fact, before and after its edit; outcomes are in free "
    "generation."
)


def section(methods: Mapping[str, Sequence[Part]]) -> tuple[Section, ...]:
    """The section of the report; none where no circuit was looked at."""
    looked = {
        name: [
            Looked(unit["circuit"], _outcomes(unit))
            for unit in units
            if unit.get("circuit") and unit["scores"]
        ]
        for name, units in methods.items()
    }
    return section_of(looked, OUTCOMES, TEXT)


def _outcomes(unit: Part) -> dict[str, float]:
    """Means over a case's requests, in free generation; NaN where a case has no such prompt."""
    found = {}
    for outcome in OUTCOMES:
        rates = [score["after"].get(outcome.key) for score in unit["scores"]]
        known = [number(each["generation"]) for each in rates if each is not None]
        found[outcome.key] = float(np.mean(known)) if known else np.nan
    return found
