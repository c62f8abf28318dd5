"""The report of ConflictEdit: who wins, what is left of the first edit, what breaks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, difference
from experiments.benchmarks.base import NO_EDIT, by_method
from experiments.benchmarks.pitfalls.asking import RANDOM
from experiments.benchmarks.pitfalls.cases import Conflict
from experiments.benchmarks.pitfalls.report import (
    CONTROL,
    OVER,
    beyond_random,
    cases_table,
    known,
    method_name,
    percent,
    sentence,
    table,
    value,
    values,
)

COLUMNS = {
    "Succ": "success",
    "CS explicit": "explicit",
    "CS implicit": "implicit",
    "CM": "magnitude",
    "CM clamped": "magnitude_clamped",
    "p(e1) after e1": "first_between",
    "p(e1) after both": "first_after",
    "p(e2) after both": "second_after",
    "TFD": "tied_damage",
    "TFD clamped": "tied_damage_clamped",
    "TFD clamped, e2 alone": "tied_damage_alone",
    "p(tied) before": "tied_before",
    "p(tied) after both": "tied_after",
}
"""Headings as in the paper, and the measures of a unit."""
SHARES = {"Succ", "CS explicit", "CS implicit", "CM", "CM clamped"} | {
    name for name in COLUMNS if name.startswith("TFD")
}
TITLES = {
    Conflict.COVERAGE: "Coverage: both edits answer the same question",
    Conflict.REVERSE: "Reverse: the second edit contradicts the first one read backwards",
    Conflict.COMPOSITE: "Composite: the second edit contradicts what the first one and a tied fact "
    "entail",
}
METHOD = (
    "Each case has two edits, e1 and e2; e2 is made on the model that e1 has changed. p of a fact "
    "is the geometric mean of its object's token probabilities, averaged over the edit's prompt "
    "and its paraphrases.",
    "Succ: share of cases in which e2 alone makes its fact likelier than e1's. CS: share in which "
    "e2's fact is likelier than e1's after both edits, by e2's own question (explicit) or by what "
    "e2 implies for e1's relation (implicit). CM: what e2 takes of p(e1), as a share of it; the "
    "paper's has no lower limit, the published code's is clamped at −100 %. TFD: what both edits "
    "take of the tied fact's p, which the edits never ask for; published without a limit. High "
    "Succ, CS and CM, and low TFD, are a conflict resolved for the later edit.",
    *CONTROL,
)


def report(parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    methods = by_method(parts)
    knows, gives = known(methods, "the true facts")
    answer = (*gives, *_claims(methods))
    sections = []
    for conflict, title in TITLES.items():
        own = {
            method: found
            for method, units in methods.items()
            if (found := [each for each in units if each["conflict"] == conflict.value])
        }
        if own:
            shown = table(f"conflict_{conflict.value}", "", own, COLUMNS, SHARES)
            sections.append(Section(title, "", (shown,)))
    stored = cases_table("cases", methods, "conflict")
    sections.append(Section("Every case", "", (stored,)))
    return Report(sentence([knows, *_clauses(methods)]), tuple(sections), answer, METHOD)


def _clauses(methods: Mapping[str, list[Part]]) -> list[str]:
    return [
        f"{method_name(method)} leaves the later of two conflicting edits the likelier in "
        f"{percent(value(units, 'explicit'))} of cases and takes "
        f"{percent(value(units, 'magnitude_clamped'))} of the earlier one's probability (random "
        f"changes of its size: {percent(value(units, 'explicit', RANDOM))} and "
        f"{percent(value(units, 'magnitude_clamped', RANDOM))})"
        for method, units in methods.items()
        if method != NO_EDIT
    ]


def _claims(methods: Mapping[str, list[Part]]) -> tuple[Claim, ...]:
    taken = beyond_random(
        methods,
        "magnitude_clamped",
        "takes [more|less] of the earlier edit's probability than random changes of its size do",
    )
    tied = beyond_random(
        methods,
        "tied_damage_clamped",
        "takes [more|less] of the tied fact's probability than random changes of its size do",
    )
    implied = []
    for method, units in methods.items():
        explicit, implicit = values(units, "explicit"), values(units, "implicit")
        if method != NO_EDIT and (np.isfinite(explicit) & np.isfinite(implicit)).any():
            implied.append(
                difference(
                    f"{method_name(method)} makes the later edit win [more|less] often where it is "
                    "asked directly than where it is only implied",
                    explicit,
                    implicit,
                    scale=100,
                    over=OVER,
                )
            )
    return (*taken, *tied, *implied)
