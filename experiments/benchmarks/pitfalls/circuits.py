"""The circuits of ConflictEdit's and RoundEdit's cases, beside how these come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

from circuits.base.plain import number
from circuits.edits.edit import EditRequest, WeightDelta
from experiments.analyses.engine.base import Part, Section
from experiments.benchmarks.base import Bench
from experiments.benchmarks.circuits.outcomes import Looked, Outcome, section_of
from experiments.benchmarks.circuits.rewired import LEFT_OUT, rewired_by
from experiments.benchmarks.pitfalls.asking import EDIT
from experiments.benchmarks.pitfalls.cases import Conflict, ConflictCase, RoundCase
from experiments.benchmarks.pitfalls.report import method_name

Changes = Sequence[WeightDelta | None]
CONFLICT = (
    Outcome(
        "magnitude_clamped",
        "what the second edit takes of the first",
        "cases whose first edit loses most of its probability",
    ),
    Outcome(
        "explicit", "whether the second is likelier", "cases in which the second edit is likelier"
    ),
    Outcome(
        "tied_damage_clamped",
        "what both take of the tied fact",
        "cases whose tied fact loses most of its probability",
    ),
)
CONFLICT_TEXT = (
    "The circuit is that of the first edit's question, before and after the second edit, both with "
    "the first one made. The new object is the second edit's where both ask the same, else the one "
    "that the first edit replaced."
)
ROUND = (
    Outcome("distortion", "the distortion D", "cases of more than the median distortion", None),
    Outcome(
        "ignored",
        "how many others become less likely",
        "cases most of whose other true objects become less likely",
    ),
    Outcome("back", "whether it comes back", "cases that come back to the object that they had"),
)
ROUND_TEXT = (
    "The circuit is that of the edited fact, before the edit and after the way back; the new "
    "object is the one on the way."
)


def conflict_circuit(bench: Bench, case: ConflictCase, changes: Changes) -> dict[str, Any]:
    """What the second change does to the circuit of the first edit's question."""
    (first, second), (before, delta) = case.edits, changes
    if before is None:
        return {LEFT_OUT: "the first edit changed nothing"}
    other = second.target if case.conflict == Conflict.COVERAGE else first.ground_truth
    asked = replace(first, target=str(other), ground_truth=first.target)
    everyone = [each for found in bench.cases for each in found.edits]
    return rewired_by(bench, asked, delta, everyone, earlier=before)


def round_circuit(bench: Bench, case: RoundCase, changes: Changes) -> dict[str, Any]:
    """What the changes there and back do together to the circuit of the fact."""
    made = [each for each in changes if each is not None]
    everyone: list[EditRequest] = [each.there for each in bench.cases]
    return rewired_by(bench, case.there, reduce(add, made) if made else None, everyone)


def conflict_section(methods: Mapping[str, Sequence[Part]]) -> tuple[Section, ...]:
    """ConflictEdit's circuits beside its outcomes, by the kind of conflict.

    Kinds differ in what is measured and in how they come out, which would pass for a connection.
    """
    return _sections(methods, "conflict", CONFLICT, CONFLICT_TEXT)


def round_section(methods: Mapping[str, Sequence[Part]]) -> tuple[Section, ...]:
    """The same of RoundEdit, by its files."""
    return _sections(methods, "split", ROUND, ROUND_TEXT)


def _sections(
    methods: Mapping[str, Sequence[Part]], kind: str, outcomes: Sequence[Outcome], text: str
) -> tuple[Section, ...]:
    """A section for each kind of case of which circuits were looked at."""
    looked_at = (unit for units in methods.values() for unit in units if unit.get("circuit"))
    sections: tuple[Section, ...] = ()
    for each in dict.fromkeys(unit[kind] for unit in looked_at):
        own = {
            method: [unit for unit in units if unit[kind] == each]
            for method, units in methods.items()
        }
        sections += section_of(_looked(own, outcomes), outcomes, text, str(each))
    return sections


def _looked(
    methods: Mapping[str, Sequence[Part]], outcomes: Sequence[Outcome]
) -> dict[str, list[Looked]]:
    return {
        method_name(method): [
            Looked(
                unit["circuit"],
                {each.key: number(unit["measures"][EDIT].get(each.key)) for each in outcomes},
            )
            for unit in units
            if unit.get("circuit")
        ]
        for method, units in methods.items()
    }
