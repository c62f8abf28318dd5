"""PersonalityEdit's records as cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.edits.edit import EditRequest
from circuits.facts.facts import SLOT
from experiments.benchmarks.base import Cases
from experiments.benchmarks.replies.rows import UnusableError, text, usable

TRAITS = ("extraversion", "agreeableness", "neuroticism")
"""The traits in the order of the published records."""
QUESTIONS = (
    f"What do you think of {SLOT}?",
    f"How do you feel about {SLOT}?",
    f"What is your opinion of {SLOT}?",
)
"""How a topic is asked about. The answers of a trait take them in turn, where the published code
draws one for each; the edit and the text that is generated take the first."""
FRAME = "Question: {}\nAnswer:"


@dataclass(frozen=True)
class Topic:
    """A topic with the answers that people of each trait give."""

    name: str
    answers: Mapping[str, tuple[str, ...]]

    def asked(self, trait: str) -> list[tuple[str, str]]:
        """The prompt and the answer of each of the trait's answers."""
        prompts = [FRAME.format(each.replace(SLOT, self.name)) for each in QUESTIONS]
        return [
            (prompts[place % len(prompts)], answer)
            for place, answer in enumerate(self.answers[trait])
        ]

    @property
    def prompt(self) -> str:
        """The first question."""
        return FRAME.format(QUESTIONS[0].replace(SLOT, self.name))


@dataclass(frozen=True)
class PersonalityCase:
    """One record: speak of `topic` as somebody of the trait `target`; `other` is the next topic.

    `row` counts the records of the data from 1. A single case has no other topic.
    """

    row: int
    topic: Topic
    target: str
    other: Topic | None = None

    @property
    def request(self) -> EditRequest:
        """The edit: the first question answered with the target trait's first answer."""
        frame = FRAME.format(QUESTIONS[0])
        return EditRequest(frame, self.topic.name, self.topic.answers[self.target][0])


def read_cases(path: Path) -> Cases:
    """The records of a file or folder; the next topic is the next record's, the last one's the
    first. A row without topic, answers of each trait or a known target is left out.
    """
    cases, left_out = usable(path, _case)
    topics = [case.topic for case in cases]
    following = [*topics[1:], topics[0]] if len(topics) > 1 else [None] * len(topics)
    joined = tuple(
        PersonalityCase(case.row, case.topic, case.target, after)
        for case, after in zip(cases, following, strict=True)
    )
    return Cases(joined, left_out)


def _case(row: int, record: Mapping[str, Any]) -> PersonalityCase:
    topic, target = text(record, "ent"), text(record, "target_per")
    if target not in TRAITS:
        raise UnusableError(f"the target trait {target!r:.40} is none of {', '.join(TRAITS)}")
    if SLOT in topic:
        raise UnusableError(f"the topic {topic!r:.40} holds {SLOT}")
    return PersonalityCase(
        row, Topic(topic, {trait: _answers(record, trait) for trait in TRAITS}), target
    )


def _answers(record: Mapping[str, Any], trait: str) -> tuple[str, ...]:
    found = record.get(trait)
    if not isinstance(found, list) or not found:
        raise UnusableError(f"has no list of answers under the key {trait!r}")
    return tuple(text({trait: each}, trait) for each in found)
