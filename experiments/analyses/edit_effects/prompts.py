"""Counterfactual edits for any relation, and the prompts that show what else they change."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from circuits.base.errors import PromptError
from circuits.edits.edit import EditRequest
from circuits.edits.judge.counterfactuals import new_object
from circuits.facts.facts import Relation, fill, place_in
from circuits.facts.knowledge import known_facts
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from experiments.analyses.engine.asking import last_logits

KINDS = ("edit", "paraphrase", "neighbour", "same subject")


@dataclass(frozen=True)
class Asked:
    """A prompt that an edit may change: its true object's and the new object's first tokens."""

    kind: str
    prompt: Prompt
    old: int
    new: int


@dataclass(frozen=True, eq=False)
class Said:
    """What a model says to prompts: the likeliest token, and both objects' probabilities."""

    best: np.ndarray
    old: np.ndarray
    new: np.ndarray


def request_of(model: Model, relation: Relation, number: int, seed: int) -> EditRequest | None:
    """The edit of this number (from 0) of a relation; None where the model knows no fact for it.

    It gives a subject that the model knows another object of the relation, in one of the first
    three training wordings; different numbers take different subjects.
    """
    generator = random.Random(f"{seed}/{relation.name}")
    wordings = relation.templates[:3]
    if not wordings or len(relation.objects()) < 2:
        return None
    known = list(known_facts(model, relation, wordings).known)
    generator.shuffle(known)
    taken: set[str] = set()
    for question in known:
        fact = question.fact
        if fact.subject in taken:
            continue
        target = new_object(relation, fact, question.template, generator, model.tokenizer)
        if target is None:
            continue
        if len(taken) == number:
            return EditRequest(question.template, fact.subject, target, fact.object, relation.name)
        taken.add(fact.subject)
    return None


def prompts_of(
    model: Model,
    request: EditRequest,
    relation: Relation,
    others: Iterable[Relation],
    neighbours: int,
    seed: int,
) -> list[Asked]:
    """The edit's own prompt, its paraphrases, other subjects, and the subject's other relations.

    Neighbours are asked in the edit's wording; half of them, where there are so many, share the
    true object. None has the new one. The subject's other relations are asked in their first
    wording.
    """
    generator = random.Random(f"{seed}/{relation.name}/{request.subject}")
    truth, own = request.ground_truth or "", request.subject
    wanted = [("edit", request.prompt, own, truth)]
    wanted += [
        ("paraphrase", template, own, truth)
        for template in (*relation.templates[:5], *relation.held_out)
        if template != request.prompt
    ]
    pool = [
        fact for fact in relation.facts if fact.subject != own and fact.object != request.target
    ]
    generator.shuffle(pool)
    alike = [fact for fact in pool if fact.object == truth][: neighbours // 2]
    rest = [fact for fact in pool if fact not in alike][: neighbours - len(alike)]
    wanted += [("neighbour", request.prompt, each.subject, each.object) for each in (*alike, *rest)]
    wanted += [
        ("same subject", other.templates[0], own, value)
        for other in others
        if other.kind == relation.kind and other.name != relation.name and other.templates
        for value in other.objects_of(own)[:1]
    ]
    made = (_asked(model, *each, request.target) for each in wanted)
    return [each for each in made if each is not None]


def say(model: Model, asked: Sequence[Asked], batch_size: int = 16) -> Said:
    """What the model says now."""
    logits = last_logits(model, [each.prompt for each in asked], batch_size)
    probability, row = logits.softmax(-1).double().numpy(), np.arange(len(asked))
    old, new = (probability[row, [getattr(a, side) for a in asked]] for side in ("old", "new"))
    return Said(logits.argmax(-1).numpy(), old, new)


def _asked(
    model: Model, kind: str, template: str, subject: str, old: str, new: str
) -> Asked | None:
    """None where the prompt cannot be asked, or both objects begin alike."""
    text = fill(template, subject)
    try:
        prompt = model.tokenizer.encode(text)
        prompt.span_of(subject, place_in(template, subject))
        tokens = [model.tokenizer.first_token(text, each) for each in (old, new)]
    except PromptError:
        return None
    return None if tokens[0] == tokens[1] else Asked(kind, prompt, *tokens)
