"""The report of RoundEdit: what a round trip leaves of the true objects that nobody edited."""

from __future__ import annotations

from collections.abc import Mapping

from circuits.edits.methods.registry import EditMethod
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, difference
from experiments.benchmarks.base import NO_EDIT, by_method
from experiments.benchmarks.pitfalls.asking import RANDOM
from experiments.benchmarks.pitfalls.circuits import round_section
from experiments.benchmarks.pitfalls.multilabel import MEMIT_MLE
from experiments.benchmarks.pitfalls.report import (
    CONTROL,
    OVER,
    beyond_random,
    cases_table,
    changes,
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
    "D, nats": "distortion",
    "D / n, nats": "distortion_per_object",
    "IR": "ignored",
    "FR": "failed",
    "p(o) before": "old_before",
    "p(o) after": "old_after",
    "p(other) before": "others_before",
    "p(other) after": "others_after",
}
"""Headings with the published names, and the measures of a unit."""
SHARES = {"Succ", "IR", "FR"}
GIVES = "in {} of the cases the unedited model gives one of the true objects"
METHOD = (
    "A fact with several true objects is edited from one of them, o, to a false object o', and "
    "then back to o. p of an object is the geometric mean of its token probabilities, averaged "
    "over the edit's prompt and its paraphrases.",
    "Succ: the mean of both hops, a hop counting where its object is likelier than the other. D: "
    "the Jensen-Shannon divergence between the true objects' probabilities before and after, each "
    "made to sum to 1; 0 is no distortion, ln 2 = 0.693 the most. It does not tell objects that "
    "became less likely from objects that became likelier. D / n is D as the published code "
    "has it, divided by the number of true objects by PyTorch's `batchmean`. IR: the share of the "
    "other true objects that became less likely, however little, so that a change without meaning "
    "gives about 50 %. FR: the share of cases with IR above 50 %. MEMIT-MLE makes the way back an "
    "edit to all true objects at once.",
    *CONTROL,
)


def report(parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    methods = by_method(parts)
    knows, gives = known(methods, GIVES, lambda gives: float(any(gives)))
    splits = dict.fromkeys(each["split"] for each in parts.values())
    sections: list[Section] = []
    for split in splits:
        own = {
            method: found
            for method, units in methods.items()
            if (found := [each for each in units if each["split"] == split])
        }
        shown = table(f"round_{split}", "", own, COLUMNS, SHARES)
        stored = () if sections else (cases_table("cases", methods, "split"),)
        sections.append(Section(f"Cases of {split}", "", (shown, *stored)))
    sections += round_section(methods)
    lead = sentence([knows, *_clauses(methods)])
    return Report(lead, tuple(sections), (*gives, *_claims(methods)), METHOD)


def _clauses(methods: Mapping[str, list[Part]]) -> list[str]:
    """How many of the other true objects fell. D is not in it: it does not tell loss from gain."""

    def beside(method: str, units: list[Part]) -> str:
        """What random changes leave; a method that changes no weight has none."""
        chance = percent(value(units, "ignored", RANDOM))
        return f" (random changes of its size {chance})" * changes(method)

    texts = [
        f"{method_name(method)} {percent(value(units, 'ignored'))}{beside(method, units)}"
        for method, units in methods.items()
        if method != NO_EDIT
    ]
    if not texts:
        return []
    return [
        "of the other true objects an edit and its reversal leave less likely than before: "
        f"{', '.join(texts)}"
    ]


def _claims(methods: Mapping[str, list[Part]]) -> tuple[Claim, ...]:
    distorted = beyond_random(
        methods,
        "distortion",
        " distorts the true objects [more|less] than random changes of its size do",
        scale=1,
        unit="nats",
    )
    ignored = beyond_random(
        methods,
        "ignored",
        " makes [more|fewer] of the other true objects less likely than random changes of its size "
        "do",
    )
    return (*distorted, *ignored, *_all_back(methods))


def _all_back(methods: Mapping[str, list[Part]]) -> tuple[Claim, ...]:
    """The multi-label variant against the plain way back, on the cases that both have."""
    plain = {each["case"]: each for each in methods.get(EditMethod.MEMIT, ())}
    pairs = [
        (plain[each["case"]], each) for each in methods.get(MEMIT_MLE, ()) if each["case"] in plain
    ]
    if not pairs:
        return ()
    usual, mle = ([pair[side] for pair in pairs] for side in (0, 1))
    return (
        difference(
            "editing back to all true objects at once distorts them [less|more] than editing back "
            "to one of them does, by MEMIT",
            values(usual, "distortion"),
            values(mle, "distortion"),
            unit="nats",
            over=OVER,
        ),
    )
