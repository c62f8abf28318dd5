"""Prompts with worked examples in front: the same question about other subjects, answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from circuits.base.choices import Choice
from circuits.facts.facts import Fact, fill
from circuits.model.tokens import Prompt, ending, find_mentions, sentence_end


class Style(Choice):
    """SENTENCE: full sentences in the question's own wording. LIST: `subject: object.`, no words.

    A list does not say what is asked, so that only its examples tell the relation.
    """

    SENTENCE = "sentence"
    LIST = "list"


@dataclass(frozen=True)
class Demonstrated:
    """A question after its examples, with the character ranges of their subjects and objects.

    `start` is where the question itself begins.
    """

    text: str
    subjects: tuple[tuple[int, int], ...]
    objects: tuple[tuple[int, int], ...]
    start: int

    def spans(self, prompt: Prompt) -> dict[str, list[int]]:
        """Token positions of all examples, of their objects, their subjects, and the question's."""
        objects, subjects = (
            [at for span in ranges for at in _positions(prompt, *span)]
            for ranges in (self.objects, self.subjects)
        )
        asked = _positions(prompt, self.start, len(self.text))
        shown = range(1 if prompt.bos else 0, asked[0])
        return {
            "examples": list(shown),
            "their objects": objects,
            "their subjects": subjects,
            "question": asked,
        }


def demonstrated(
    template: str, subject: str, demonstrations: Sequence[Fact], style: Style | str = Style.SENTENCE
) -> Demonstrated:
    """The question about the subject, after as many answered ones as there are demonstrations.

    `template` is not used by the style LIST. Without demonstrations it is the question alone.
    """
    asked = {Style.SENTENCE: template, Style.LIST: "{}:"}[Style.of(style)]
    text = ""
    subjects, objects = [], []
    for each in demonstrations:
        begin = len(text) + asked.index("{}")
        subjects.append((begin, begin + len(each.subject)))
        question = fill(asked, each.subject)
        stop = len(text) + len(question + ending(question, each.object))
        objects.append((stop - len(each.object.strip()), stop))
        text += answered(question, each.object)
    whole = text + fill(asked, subject)
    return Demonstrated(whole, tuple(subjects), tuple(objects), len(text))


def answered(question: str, answer: str) -> str:
    """The question with its answer, ending so that another sentence may follow."""
    return question + ending(question, answer) + sentence_end(question)


def shown_before(template: str, demonstrations: Sequence[Fact]) -> str:
    """What stands before every question in the template; empty without demonstrations."""
    whole = demonstrated(template, "", demonstrations)
    return whole.text[: whole.start]


def with_demonstrations(
    template: str, subject: str, demonstrations: Sequence[Fact], style: Style | str = Style.SENTENCE
) -> str:
    """The text of `demonstrated`."""
    return demonstrated(template, subject, demonstrations, style).text


def can_demonstrate(fact: Fact, subject: str, answer: str) -> bool:
    """Whether a fact may stand before a question about the subject without naming it or its answer.

    The subject must be mentioned once in a prompt, and an example that holds the answer would give
    it away.
    """
    texts = (fact.subject, fact.object)
    clashes = any(find_mentions(text, word) for text in texts for word in (subject, answer))
    return not clashes and not any(find_mentions(subject, text) for text in texts)


def _positions(prompt: Prompt, start: int, stop: int) -> list[int]:
    span = prompt.span_at(start, stop)
    return list(range(span.start, span.stop))
