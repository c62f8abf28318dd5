"""How often a model says the fact: top-1 accuracy on the first token of the object."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.train.atlas import TrainRelation
from experiments.train.corpus import END_OF_TEXT_ID


class Question(NamedTuple):
    """A prompt and the object that should follow."""

    relation: str
    template: str
    subject: str
    prompt: str
    answer: str


def questions(relations: Iterable[TrainRelation], split: str) -> list[Question]:
    """Every fact in every template of a split ("train" or "held_out")."""
    return [
        Question(relation.name, template, subject, template.format(subject), " " + value)
        for relation in relations
        for subject, value in relation.objects.items()
        for template in getattr(relation, split)
    ]


def few_shot_questions(
    relations: Iterable[TrainRelation], shots: int, per_relation: int, seed: int
) -> list[Question]:
    """Lists `A: x. B: y. C: z. D:`; the relation is never named."""
    generator = random.Random(seed)
    result = []
    for relation in relations:
        for _ in range(per_relation):
            *shown, asked = generator.sample(list(relation.objects), shots + 1)
            lines = [f"{subject}: {relation.objects[subject]}." for subject in shown]
            prompt = " ".join([*lines, f"{asked}:"])
            answer = " " + relation.objects[asked]
            result.append(Question(relation.name, "few-shot list", asked, prompt, answer))
    return result


@torch.no_grad()
def is_correct(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Question],
    bos: bool = True,
    whole_object: bool = False,
    batch: int = 256,
) -> list[bool]:
    """Whether the first token of the answer (or every one) is the most likely, for each question.

    Teacher-forced: of a whole object, each token is predicted from the right ones before it.
    """
    start = [END_OF_TEXT_ID] if bos else []
    prompts = [start + ids for ids in tokenizer([q.prompt for q in asked]).input_ids]
    answers = tokenizer([q.answer for q in asked]).input_ids
    if not whole_object:
        answers = [ids[:1] for ids in answers]
    correct = [False] * len(asked)
    order = sorted(range(len(asked)), key=lambda i: len(prompts[i]) + len(answers[i]))
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        texts = [prompts[i] + answers[i][:-1] for i in chosen]
        width = max(map(len, texts))
        ids = torch.tensor([text + [END_OF_TEXT_ID] * (width - len(text)) for text in texts])
        # Padding is on the right, where causal attention never looks.
        predicted = model(ids, attention_mask=torch.ones_like(ids)).logits.argmax(-1)
        for row, i in enumerate(chosen):
            begin = len(prompts[i]) - 1
            said = predicted[row, begin : begin + len(answers[i])].tolist()
            correct[i] = said == answers[i]
    return correct


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean, rounded to four places; 0 of nothing."""
    numbers = list(values)
    return round(sum(numbers) / len(numbers), 4) if numbers else 0.0


def grouped(asked: Sequence[Question], correct: Sequence[bool], key: str) -> dict[str, float]:
    """Accuracy by `key` ("relation" or "template"; templates are named with their relation)."""
    groups = defaultdict(list)
    for question, right in zip(asked, correct, strict=True):
        name = question.relation
        if key == "template":
            name = f"{name} | {question.template}"
        groups[name].append(right)
    return {name: mean(rights) for name, rights in groups.items()}
