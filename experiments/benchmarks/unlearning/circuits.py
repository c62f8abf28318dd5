"""The circuits of known facts of neither set, beside whether they are forgotten all the same."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from circuits.base.plain import number
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.facts.questions import Question, questions
from circuits.model.model import Model
from experiments.analyses.engine.base import Section
from experiments.analyses.engine.names import named
from experiments.benchmarks.base import Bench
from experiments.benchmarks.circuits.outcomes import Looked, Outcome, section_of
from experiments.benchmarks.circuits.rewired import LEFT_OUT, rewired_by
from experiments.benchmarks.unlearning.cases import Row
from experiments.benchmarks.unlearning.scoring import NEITHER
from experiments.benchmarks.unlearning.stored import AFTER, Domain

LOST = Outcome(
    "lost", "what is lost of its answer", "known facts of neither set that lose a token", 0.0
)
TEXT = (
    "The circuits are those of known facts of neither set, before and after unlearning; the new "
    "object is another one of the relation, drawn at random."
)


def neither_circuits(
    bench: Bench, rows: Sequence[Row], delta: WeightDelta | None
) -> list[dict[str, Any]]:
    """What a change does to the circuit of each of these facts, in the rows' order."""
    relations = bench.context.relations
    asked = {each.prompt: each for each in reversed(questions(relations.values()))}
    found = []
    for row in rows:
        question = asked[row.question]
        objects = relations[question.fact.relation].objects()
        request = _request(bench.model, question, objects, bench.seed)
        if request is None:
            found.append({LEFT_OUT: "every other object of the relation begins alike"})
        else:
            found.append(rewired_by(bench, request, delta, ()))
    return found


def _request(
    model: Model, question: Question, objects: Sequence[str], seed: int
) -> EditRequest | None:
    """The fact with another object of its relation that begins with another token."""
    fact = question.fact
    others = [each for each in objects if each != fact.object]
    random.Random(f"{seed} {question.prompt}").shuffle(others)

    def first(answer: str) -> int:
        return model.tokenizer.continuation(question.prompt, answer)[0]

    own = first(fact.object)
    other = next((each for each in others if first(each) != own), None)
    if other is None:
        return None
    return EditRequest(question.template, fact.subject, other, fact.object, fact.relation)


def section(found: Domain) -> tuple[Section, ...]:
    """The section of a domain's report; none where no circuit was looked at."""
    looked = {named(method): _looked(found, method) for method in found.methods}
    return section_of(looked, (LOST,), TEXT, found.name)


def _looked(found: Domain, method: str) -> list[Looked]:
    unit: Mapping[str, Any] = found.units[method]
    circuits = unit.get("circuits")
    if not circuits:
        return []
    before, after = (unit[side][NEITHER]["accuracy"] for side in ("before", AFTER))
    return [
        Looked(circuit, {LOST.key: number(had) - number(has)})
        for circuit, had, has in zip(circuits, before, after, strict=True)
    ]
