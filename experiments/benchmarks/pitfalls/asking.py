"""Making edits one on top of the other, and asking facts along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.base.choices import Control
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.control import control, control_seed
from circuits.edits.judge.in_context import stated
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import EditOutcome, TargetScores, target_scores
from circuits.edits.parts.contexts import place
from experiments.benchmarks.base import Bench
from experiments.benchmarks.pitfalls.reading import Question
from locate.edit import Editor

EDIT, RANDOM, RANDOM_LAST = "edit", "random", "random_last"
"""Sides of a unit: the method's changes; random ones of their norm and rank; the method's first
ones and a random last one, which shows what any further change of that size would do."""
Asked = dict[str, float]


@dataclass(frozen=True, eq=False)
class Walk:
    """Edits made one after the other. `p[side][step]` has each fact's p after `step` edits."""

    outcomes: tuple[EditOutcome, ...]
    p: Mapping[str, Sequence[Asked]]

    @property
    def deltas(self) -> list[WeightDelta | None]:
        """The changes, None for an edit that changed nothing."""
        return [each.delta for each in self.outcomes]

    def records(self) -> list[dict[str, Any]]:
        """What came of each edit, as plain values."""
        return [
            {
                "prompt": each.requests[0].text,
                "target": ", ".join(request.target for request in each.requests),
                "status": str(each.status),
                "reason": each.reason,
                "norm": None if each.delta is None else each.delta.norm(),
            }
            for each in self.outcomes
        ]


def walk(
    bench: Bench,
    method: EditMethod | None,
    hops: Sequence[Sequence[EditRequest]],
    facts: Mapping[str, Question],
) -> Walk:
    """The hops by a method, each on the model that the ones before have changed.

    A hop that diverges, or that the model answers already, changes nothing and the walk goes on;
    no method changes nothing at all and has no control. The model is left as it was.
    """
    if method is None:
        return Walk((), {EDIT: [asked(bench, facts)] * (len(hops) + 1)})
    editor = bench.once(
        ("editor", str(method)), lambda: Editor(bench.model, method, seed=bench.seed)
    )
    outcomes: list[EditOutcome] = []
    earlier: list[EditRequest] = []
    with ExitStack() as placed:
        for hop in hops:
            outcome = editor(list(hop), earlier=earlier)
            outcomes.append(outcome)
            if outcome.delta is not None:
                placed.enter_context(outcome.delta.applied(bench.model))
                earlier += hop
    deltas = [each.delta for each in outcomes]
    beside = [
        None
        if delta is None
        else control(delta, bench.model, control_seed(bench.seed, hop[0], step), Control.RANDOM)
        for step, (delta, hop) in enumerate(zip(deltas, hops, strict=True))
    ]
    sides = {EDIT: deltas, RANDOM: beside}
    if len(hops) > 1:
        sides[RANDOM_LAST] = [*deltas[:-1], beside[-1]]
    known: dict[tuple[int, ...], Asked] = {}
    return Walk(
        tuple(outcomes),
        {side: _along(bench, each, facts, known) for side, each in sides.items()},
    )


def told(
    bench: Bench, hops: Sequence[Sequence[EditRequest]], facts: Mapping[str, Question]
) -> Walk:
    """The hops stated before every prompt of the unedited model, one after the other."""
    steps, context = [asked(bench, facts)], ""
    for hop in hops:
        context += stated(hop)
        steps.append(asked(bench, facts, context))
    return Walk((), {EDIT: steps})


def asked(bench: Bench, facts: Mapping[str, Question], context: str = "") -> Asked:
    """p of each fact in the model as it is: the mean over its prompts of its object's p.

    `context` stands before every prompt. PromptError where the tokenizer cannot place a subject or
    object, or a prompt has no room.
    """
    requests = [
        EditRequest(prompt, each.subject, each.object)
        for each in facts.values()
        for prompt in each.prompts
    ]
    scores = _scores(bench, requests, context)
    found, start = {}, 0
    for name, each in facts.items():
        stop = start + len(each.prompts)
        found[name] = float(np.mean(scores.probability[start:stop].tolist()))
        start = stop
    return found


def says(bench: Bench, facts: Sequence[Question]) -> list[bool]:
    """Whether greedy decoding of each fact's first prompt gives its object."""
    scores = _scores(bench, [each.request() for each in facts])
    return [bool(said) for said in scores.said]


def _scores(bench: Bench, requests: Sequence[EditRequest], context: str = "") -> TargetScores:
    placed = [place(bench.model, each, context) for each in requests]
    return target_scores(bench.model, placed, bench.batch_size)


def _along(
    bench: Bench,
    deltas: Sequence[WeightDelta | None],
    facts: Mapping[str, Question],
    known: dict[tuple[int, ...], Asked],
) -> list[Asked]:
    """The facts before and after each change; what the sides have in common is asked once."""
    found = []
    with ExitStack() as placed:
        for step in range(len(deltas) + 1):
            made = [delta for delta in deltas[:step] if delta is not None]
            if step and (last := deltas[step - 1]) is not None:
                placed.enter_context(last.applied(bench.model))
            state = tuple(map(id, made))
            if state not in known:
                known[state] = asked(bench, facts)
            found.append(known[state])
    return found
