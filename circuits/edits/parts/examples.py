"""Texts to forget and to retain: from files, and from the facts of the atlas."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.choices import Templates
from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.base.records import read_json, read_jsonl, text_field
from circuits.edits.parts.training import Passage, passage
from circuits.facts.facts import Relation
from circuits.facts.questions import questions
from circuits.model.model import Model


@dataclass(frozen=True)
class Example:
    """A text, or a prompt with the answer that is scored; with the fact it words, if any."""

    text: str
    answer: str | None = None
    relation: str | None = None
    subject: str | None = None


def encode_examples(model: Model, examples: Sequence[Example], what: str) -> list[Passage]:
    """Tokenised examples; PromptError says which of the `what` set (counted from 1) cannot be.

    One that is longer than the model's context, its answer included, is among those.
    """
    if not examples:
        raise OptionError(f"the {what} set holds no texts")
    passages = []
    for number, each in enumerate(examples, start=1):
        try:
            passages.append(passage(model, each.text, each.answer))
        except (PromptError, OptionError) as error:
            raise PromptError(f"text {number} of the {what} set: {error}") from None
    return passages


def read_examples(path: str | Path) -> list[Example]:
    """Examples from JSONL or a JSON list: `text` alone, `prompt` and `answer`, or KnowUnDo's
    `text` and `labels`. FileFormatError names the file and the place of the first mistake.
    """
    if Path(path).suffix == ".jsonl":
        rows: list[tuple[int, Any]] = list(read_jsonl(path))
    else:
        content = read_json(path)
        rows = list(enumerate(content if isinstance(content, list) else [content], start=1))
    if not rows:
        raise FileFormatError(path, "holds no texts")
    return [_example(row, path, number) for number, row in rows]


def _example(row: Any, path: str | Path, number: int) -> Example:
    if not isinstance(row, dict):
        raise FileFormatError(path, "must be a JSON object", number)
    prompt = "prompt" if "prompt" in row else "text"
    answer = next((key for key in ("answer", "labels") if key in row), None)
    if prompt == "prompt" and answer is None:
        raise FileFormatError(path, "a prompt needs the key 'answer'", number)
    return Example(
        text_field(row, prompt, path, number),
        text_field(row, answer, path, number) if answer else None,
        *(row[key] if isinstance(row.get(key), str) else None for key in ("relation", "subject")),
    )


def fact_examples(
    relations: Relation | Iterable[Relation],
    templates: Templates | str | Sequence[str] = Templates.FIRST,
    subjects: Collection[str] | None = None,
) -> list[Example]:
    """Facts in words, as prompt and answer; of these subjects only where any are named."""
    asked = questions(relations, templates)
    return [
        Example(each.prompt, each.fact.object, each.fact.relation, each.fact.subject)
        for each in asked
        if subjects is None or each.fact.subject in subjects
    ]


def split_facts(
    examples: Sequence[Example], forget: int, retain: int, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """So many facts to forget and others to retain, drawn by the seed, in all their wordings.

    A subject is in one set only, so that what is retained does not word what is forgotten.
    OptionError where there are too few.
    """
    by_subject: dict[str | None, list[Example]] = {}
    for each in examples:
        by_subject.setdefault(each.subject, []).append(each)
    order = list(by_subject.values())
    np.random.default_rng(seed).shuffle(order)  # type: ignore[arg-type]
    first, rest = _take(order, forget)
    second, _ = _take(rest, retain)
    return first, second


def _take(groups: list[list[Example]], count: int) -> tuple[list[Example], list[list[Example]]]:
    """The examples of so many facts, from as many subjects as that takes, and the other groups."""
    taken: list[Example] = []
    facts: set[tuple[str | None, str | None, str | None]] = set()
    for place, group in enumerate(groups):
        if len(facts) == count:
            return taken, groups[place:]
        for each in group:
            key = (each.relation, each.subject, each.answer)
            if key in facts or len(facts) < count:
                facts.add(key)
                taken.append(each)
    if len(facts) < count:
        raise OptionError(f"{count} facts were asked for, {len(facts)} are left")
    return taken, []
