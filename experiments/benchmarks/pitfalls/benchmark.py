"""ConflictEdit and RoundEdit of "Unveiling the Pitfalls of Knowledge Editing" (Li et al. 2024).

1. ConflictEdit: two edits that contradict each other, by what the facts of the world entail. Does
   the second one win, and what is left of the first?
2. RoundEdit: a fact with several true objects is edited to a false one and back. What became of
   the true objects that nobody edited?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from circuits.edits.edit import EditRequest
from circuits.edits.methods.registry import EditMethod
from experiments.analyses.engine.base import Part
from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT, Bench, Benchmark, edit_or
from experiments.benchmarks.pitfalls import measures
from experiments.benchmarks.pitfalls.asking import Asked, Walk, says, told, walk
from experiments.benchmarks.pitfalls.cases import (
    FIRST,
    IMPLIED,
    NEW,
    OLD,
    OTHER,
    SECOND,
    TIED,
    Conflict,
    ConflictCase,
    RoundCase,
    read_conflict,
    read_round,
)
from experiments.benchmarks.pitfalls.circuits import conflict_circuit, round_circuit
from experiments.benchmarks.pitfalls.conflict_report import report as conflict_report
from experiments.benchmarks.pitfalls.multilabel import MEMIT_MLE
from experiments.benchmarks.pitfalls.reading import PROMPTS
from experiments.benchmarks.pitfalls.round_report import report as round_report

PUBLISHED = "https://github.com/zjunlp/PitfallsKnowledgeEditing"


# --- ConflictEdit --------------------------------------------------------------------------------


edit_method = edit_or(NO_EDIT, IN_CONTEXT)


def _walked(bench: Bench, case: Any, method: str, hops: Sequence[Sequence[EditRequest]]) -> Walk:
    """The hops of a case by a method; in context they are stated before every prompt."""
    if method == IN_CONTEXT:
        return told(bench, hops, case.facts)
    return walk(bench, edit_or_all_back(method), hops, case.facts)


def compute_conflict(bench: Bench, case: ConflictCase, method: str) -> Part:
    """Both edits of a case, one on the other; where a measure needs it, the second alone too."""
    first, second = case.edits
    both = _walked(bench, case, method, [[first], [second]])
    alone = None
    if case.conflict != Conflict.REVERSE:
        alone = _walked(bench, case, method, [[second]])
    found: dict[str, Any] = {
        "conflict": case.conflict,
        "edits": both.records(),
        "alone": alone.records() if alone else [],
        "p": both.p,
        "p_alone": alone.p if alone else {},
        "measures": {
            side: conflict_measures(steps, alone.p[side][-1] if alone and side in alone.p else None)
            for side, steps in both.p.items()  # `random_last` has nothing of the second edit alone
        },
    }
    if method == NO_EDIT:
        found["gives"] = says(bench, case.truths)
    elif bench.config.circuits and both.outcomes:
        found["circuit"] = conflict_circuit(bench, case, both.deltas)
    return found


def conflict_measures(steps: Sequence[Asked], alone: Asked | None = None) -> dict[str, float]:
    """All measures of a case, from the facts' p after no, one and both edits.

    `alone` has them after the second edit alone. Measures that the type of conflict lacks are
    absent.
    """
    before, between, after = steps
    found = {
        "explicit": measures.likelier(after[SECOND], after[FIRST]),
        "magnitude": measures.relative_loss(between[FIRST], after[FIRST]),
        "magnitude_clamped": measures.clamped_loss(between[FIRST], after[FIRST]),
        "first_between": between[FIRST],
        "first_after": after[FIRST],
        "second_after": after[SECOND],
    }
    if IMPLIED in after:
        found["implicit"] = measures.likelier(after[IMPLIED], after[FIRST])
        found["implied_after"] = after[IMPLIED]
    elif alone:
        found["success"] = measures.likelier(alone[SECOND], alone[FIRST])
    if TIED in after:
        found |= {
            "tied_before": before[TIED],
            "tied_after": after[TIED],
            "tied_damage": measures.relative_loss(before[TIED], after[TIED]),
            "tied_damage_clamped": measures.clamped_loss(before[TIED], after[TIED]),
            "tied_damage_alone": measures.clamped_loss(before[TIED], alone[TIED])
            if alone
            else math.nan,
        }
    return found


CONFLICT_EDIT = Benchmark(
    name="conflictedit",
    title="Edits in conflict (ConflictEdit)",
    question="When two edits contradict each other, does the later one win, what is left of the "
    "earlier one, and what breaks that ties them?",
    published=f"{PUBLISHED}, data/GPT2-XL and data/GPT-J: reverse_edit.json, composite_edit.json, "
    "coverage_edit.json, conflict_prompts.json",
    licence="MIT",
    form="a JSON list of cases with `type`, two `edits` and `triples`, or a folder of such files; "
    "paraphrases by relation id in a *_prompts.json beside them",
    fixture="conflictedit",
    methods=(NO_EDIT, IN_CONTEXT, "ft", "rome", "memit"),
    read=read_conflict,
    compute=compute_conflict,
    report=conflict_report,
    finds_circuits=True,
    edit_of=edit_method,
    beside=PROMPTS,
    truths=lambda case: [(each.request().text, (each.object,)) for each in case.truths],
)


# --- RoundEdit -----------------------------------------------------------------------------------


def edit_or_all_back(method: str) -> EditMethod | None:
    """As `edit_method`, and `memit-mle`, whose way back edits every true object at once."""
    return MEMIT_MLE if method == MEMIT_MLE else edit_method(method)


def compute_round(bench: Bench, case: RoundCase, method: str) -> Part:
    """A case's edit and the way back, to the object it came from or to all true ones."""
    back = case.all_back if method == MEMIT_MLE else [case.back]
    done = _walked(bench, case, method, [[case.there], back])
    found: dict[str, Any] = {
        "split": case.split,
        "edits": done.records(),
        "p": done.p,
        "measures": {side: round_measures(steps) for side, steps in done.p.items()},
    }
    if method == NO_EDIT:
        found["gives"] = says(bench, case.truths)
    elif bench.config.circuits and done.outcomes:
        found["circuit"] = round_circuit(bench, case, done.deltas)
    return found


def round_measures(steps: Sequence[Asked]) -> dict[str, float]:
    """All measures of a case, from the objects' p before, after the edit and after the way back."""
    before, between, after = steps
    hops = [
        measures.likelier(between[NEW], between[OLD]),
        measures.likelier(after[OLD], after[NEW]),
    ]
    others = [name for name in before if name.startswith(OTHER)]
    true = [OLD, *others]
    sides = [_values(each, true) for each in (before, after)]
    other_sides = [_values(each, others) for each in (before, after)]
    return {
        "success": sum(hops) / len(hops),
        "there": hops[0],
        "back": hops[1],
        "distortion": measures.distortion(*sides),
        "distortion_per_object": measures.distortion_per_object(*sides),
        "ignored": measures.ignored(*other_sides),
        "failed": measures.failed(*other_sides),
        "old_before": before[OLD],
        "old_after": after[OLD],
        "others_before": sum(other_sides[0]) / len(others),
        "others_after": sum(other_sides[1]) / len(others),
    }


def _values(asked: Mapping[str, float], names: Sequence[str]) -> list[float]:
    return [asked[name] for name in names]


ROUND_EDIT = Benchmark(
    name="roundedit",
    title="There and back again (RoundEdit)",
    question="After an edit and its reversal, are the other true objects of the fact as likely as "
    "they were?",
    published=f"{PUBLISHED}, data/GPT2-XL and data/GPT-J: easy.json, hard.json, round_prompts.json",
    licence="MIT",
    form="a JSON list of cases with `edit` and `true_objects`, or a folder of such files; "
    "paraphrases by relation id in a *_prompts.json beside them",
    fixture="roundedit",
    methods=(NO_EDIT, IN_CONTEXT, "ft", "rome", "memit", MEMIT_MLE.value),
    read=read_round,
    compute=compute_round,
    report=round_report,
    finds_circuits=True,
    edit_of=edit_or_all_back,
    beside=PROMPTS,
    truths=lambda case: [
        (case.there.text, tuple(each.object for each in case.truths)),
    ],
)
