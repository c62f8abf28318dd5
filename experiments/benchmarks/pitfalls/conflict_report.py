"""The report of ConflictEdit: who wins, what is left of the first edit, what breaks."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, difference
from experiments.benchmarks.base import NO_EDIT, by_method
from experiments.benchmarks.pitfalls.asking import EDIT, RANDOM_LAST
from experiments.benchmarks.pitfalls.cases import Conflict
from experiments.benchmarks.pitfalls.circuits import conflict_section
from experiments.benchmarks.pitfalls.report import (
    CONTROL,
    OVER,
    beyond_random,
    cases_table,
    changes,
    known,
    listed,
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
"""Headings with the published names, and the measures of a unit."""
SHARES = {"Succ", "CS explicit", "CS implicit", "CM", "CM clamped"} | {
    name for name in COLUMNS if name.startswith("TFD")
}
TITLES = {
    Conflict.COVERAGE: "Coverage: both edits answer the same question",
    Conflict.REVERSE: "Reverse: the second edit contradicts the first one read backwards",
    Conflict.COMPOSITE: "Composite: the second edit contradicts what the first one and a tied fact "
    "entail",
}
WORDS = {
    Conflict.COVERAGE: "where both answer the same question",
    Conflict.REVERSE: "where it contradicts the first read backwards",
    Conflict.COMPOSITE: "where a tied fact makes them conflict",
}
"""The types in a sentence."""
METHOD = (
    "Each case has two edits, e1 and e2; e2 is made on the model that e1 has changed. p of a fact "
    "is the geometric mean of its object's token probabilities, averaged over the edit's prompt "
    "and its paraphrases.",
    "Succ: share of cases in which e2 alone makes its fact likelier than e1's. CS: share in which "
    "e2's fact is likelier than e1's after both edits, by e2's own question (explicit) or by what "
    "e2 implies for e1's relation (implicit). CM: what e2 takes of p(e1), as a share of it; "
    "the published code clamps it at −100 %, as `CM clamped`. TFD: what both edits "
    "take of the tied fact's p, which the edits never ask for; published without a clamp. High "
    "Succ, CS and CM, and low TFD, are a conflict resolved for the later edit.",
    *CONTROL,
)


def report(parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    methods = by_method(parts)
    knows, gives = known(methods, "the unedited model gives {} of the true facts", share)
    sections: list[Section] = []
    for conflict, title in TITLES.items():
        if own := _of(methods, conflict):
            shown = table(f"conflict_{conflict.value}", "", own, COLUMNS, SHARES)
            stored = () if sections else (cases_table("cases", methods, "conflict"),)
            sections.append(Section(title, "", (shown, *stored), _section_claims(own, conflict)))
    sections += conflict_section(methods)
    lead = sentence([knows, *_clauses(methods)])
    return Report(lead, tuple(sections), (*gives, *_answer(methods)), METHOD)


def share(gives: list[bool]) -> float:
    """Of a case's true facts, those that the model gives."""
    return sum(gives) / len(gives)


def _of(methods: Mapping[str, list[Part]], *conflicts: Conflict) -> dict[str, list[Part]]:
    """The units of some types, by method."""
    wanted = [each.value for each in conflicts]
    found = {m: [each for each in u if each["conflict"] in wanted] for m, u in methods.items()}
    return {method: units for method, units in found.items() if units}


def _clauses(methods: Mapping[str, list[Part]]) -> list[str]:
    """What the second edit takes of the first, by type, and what both take of the tied fact."""
    edited = {method: units for method, units in methods.items() if method != NO_EDIT}
    if not edited:
        return []
    kinds = [each for each in WORDS if _of(edited, each)]

    def losses(units: list[Part], side: str) -> str:
        own = [[each for each in units if each["conflict"] == kind.value] for kind in kinds]
        return listed([percent(value(each, "magnitude_clamped", side)) for each in own])

    def beside(method: str, units: list[Part]) -> str:
        """A random change's losses; a method that changes no weight has none."""
        return f" (a random change of its size {losses(units, RANDOM_LAST)})" * changes(method)

    texts = [
        f"{method_name(method)} {losses(units, EDIT)}{beside(method, units)}"
        for method, units in edited.items()
    ]
    clauses = [
        "of the first edit's probability the second one takes "
        f"({listed([WORDS[kind] for kind in kinds])}): {', '.join(texts)}"
    ]
    if Conflict.COMPOSITE in kinds:
        tied = [
            f"{method_name(method)} {percent(value(units, 'tied_damage_clamped'))}"
            for method, units in edited.items()
        ]
        clauses.append(f"of the tied fact's probability both edits take: {', '.join(tied)}")
    return clauses


def _answer(methods: Mapping[str, list[Part]]) -> tuple[Claim, ...]:
    """Does it matter how the edits conflict, and does what ties them suffer?"""
    direct = _of(methods, Conflict.COVERAGE)
    implied = _of(methods, Conflict.REVERSE, Conflict.COMPOSITE)
    claims = [
        difference(
            f"the second edit of {method_name(method)} takes [more|less] of the first one's "
            "probability where both answer the same question than where the world makes them "
            "conflict",
            values(units, "magnitude_clamped"),
            values(implied[method], "magnitude_clamped"),
            paired=False,
            scale=100,
            over=OVER,
        )
        for method, units in direct.items()
        if method != NO_EDIT and method in implied
    ]
    tied = " takes [more|less] of the tied fact's probability than random changes of its size do"
    return (*claims, *beyond_random(methods, "tied_damage_clamped", tied))


def _section_claims(own: Mapping[str, list[Part]], conflict: Conflict) -> tuple[Claim, ...]:
    taken = beyond_random(
        own,
        "magnitude_clamped",
        "'s second edit takes [more|less] of the first one's probability than a random change of "
        "its size does",
        side=RANDOM_LAST,
    )
    if conflict == Conflict.COVERAGE:
        return taken
    return taken + tuple(
        difference(
            f"{method_name(method)} makes the second edit win [more|less] often where it is asked "
            "directly than where it is only implied",
            values(units, "explicit"),
            values(units, "implicit"),
            scale=100,
            over=OVER,
        )
        for method, units in own.items()
        if method != NO_EDIT
    )
