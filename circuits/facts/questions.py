"""Facts in words: which are asked, in which templates, after which demonstrations.

1. `questions` words facts: every fact in each of the chosen templates.
2. `circuits.facts.knowledge` asks a model all of them: a `KnowledgeCheck`.
3. `circuits.facts.pairing` gives each known fact a partner.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from circuits.base.choices import Templates
from circuits.base.errors import NothingFoundError
from circuits.facts.demonstrations import shown_before
from circuits.facts.facts import FIRST_TEMPLATES, Fact, Relation, fill, place_in
from circuits.facts.pairs import SUBJECT
from circuits.model.tokens import occurrences

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A fact in words; `before` is what stands before it, the same for all of a template.

    Demonstrations, or the beginning of a chat.
    """

    fact: Fact
    template: str
    before: str = ""

    @property
    def prompt(self) -> str:
        """The prompt that the object continues."""
        return self.before + fill(self.template, self.fact.subject)

    @property
    def place(self) -> int:
        """Which occurrence of the subject in the prompt is asked about; 0: the one whole word."""
        place = place_in(self.template, self.fact.subject)
        return place and place + len(occurrences(self.before, self.fact.subject))

    @property
    def spans(self) -> tuple[tuple[str, str, int], ...]:
        """The subject's place, for a prompt pair; empty where the prompt's words tell it."""
        return ((SUBJECT, self.fact.subject, self.place),) if self.place else ()


@dataclass(frozen=True)
class Answer:
    """How the model does on a question: rank (0 is best) and probability of the first token.

    `among` is its rank among the first tokens of the relation's objects, `said` what the model says
    first. `right` counts the tokens of the answer that are known one after the other, as far as
    they were asked: more than one only where other objects begin alike. `text` is the accepted
    answer that the model does best on, where a fact has several.
    """

    question: Question
    rank: int
    probability: float
    among: int = 0
    said: str = ""
    right: int | None = None
    text: str | None = None

    @property
    def known(self) -> bool:
        """Whether the answer's first token counts as known; the first rank, unless told."""
        return self.rank == 0 if self.right is None else self.right > 0

    @property
    def answer(self) -> str:
        """The text that answers the question."""
        return self.text or self.question.fact.object


@dataclass(frozen=True)
class KnowledgeCheck:
    """Answers to all questions that could be asked, and those that could not, with the reason."""

    answers: tuple[Answer, ...]
    unusable: tuple[tuple[Question, str], ...] = ()

    @property
    def known(self) -> tuple[Question, ...]:
        """The questions that the model answers right."""
        return tuple(answer.question for answer in self.answers if answer.known)

    @property
    def unknown(self) -> tuple[Question, ...]:
        """The questions that the model answers wrong."""
        return tuple(answer.question for answer in self.answers if not answer.known)

    @property
    def accuracy(self) -> float:
        """Share of the questions asked that are answered right; NaN where none was asked."""
        return len(self.known) / len(self.answers) if self.answers else float("nan")

    def by_template(self) -> dict[str, tuple[int, int]]:
        """For each wording how many questions are answered right, and how many were asked."""
        asked = Counter(answer.question.template for answer in self.answers)
        right = Counter(question.template for question in self.known)
        return {template: (right[template], count) for template, count in asked.items()}

    def instead(self, n: int = 3) -> list[tuple[str, int, Question]]:
        """What the model says most often where it is wrong, how often, and the first such case."""
        wrong = [answer for answer in self.answers if not answer.known and answer.said]
        said = Counter(answer.said for answer in wrong)
        first = {answer.said: answer.question for answer in reversed(wrong)}
        return [(word, count, first[word]) for word, count in said.most_common(n)]

    def describe(self) -> str:
        """One line with the counts."""
        line = f"{len(self.known)} of {len(self.answers)} questions answered right"
        if self.unusable:
            line += f"; {len(self.unusable)} could not be asked, as: {self.unusable[0][1]}"
        return line

    def describe_wrong(self) -> str:
        """One line with the commonest wrong answers, an example and the best and worst wording.

        It is empty where nothing is wrong.
        """
        found = self.instead()
        if not found:
            return ""
        wrong = len(self.unknown)
        said = ", ".join(f"{word!r} {count} of {wrong} times" for word, count, _ in found)
        _, _, case = found[0]
        example = fill(case.template, case.fact.subject)
        line = f"it says {said}, as after {example!r} (not {case.fact.object!r})"
        shares = {name: right / asked for name, (right, asked) in self.by_template().items()}
        best, worst = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
        if shares[best] > shares[worst]:
            line += f"; {shares[best]:.0%} right in {best!r}, {shares[worst]:.0%} in {worst!r}"
        return line


def questions(
    relations: Relation | Iterable[Relation],
    templates: Templates | str | Sequence[str] = Templates.FIRST,
    *,
    shots: int = 0,
    seed: int = 0,
    before: str = "",
) -> list[Question]:
    """Every fact in each of the chosen templates, once.

    `Templates.FIRST` are the first three training templates, `USUAL` and `BEST` those of
    `Relation.usual` and `Relation.best` (see `circuits.facts.knowledge.with_best`) where there are
    such, `TRAIN` all of them, `HELD_OUT` those no trained model has seen; a list of templates is
    taken as it is. Facts with their own wording
    are asked in that one unless a list is given. With `shots`, so many facts of the relation, drawn
    by the seed, stand answered before every question in its own wording, and are not asked
    themselves; the text `before` stands before all that. NothingFoundError where a relation has no
    template or too few facts.
    """
    asked: dict[tuple[str, str, str, str], Question] = {}
    few = ""
    for relation in _as_list(relations):
        chosen = chosen_templates(relation, templates)
        shown = demonstrations_of(relation, shots, seed)
        if shown is None:
            few = f"{relation.name} has {len(relation.subjects())} subjects, too few for {shots} "
            few += "demonstrations and two questions"
            log.warning(few)
            continue
        subjects = {each.subject for each in shown}
        above: dict[str, str] = {}
        for fact in relation.facts:
            if fact.subject in subjects:
                continue
            own = fact.template if isinstance(templates, Templates) else None
            for template in (own,) if own else chosen:
                if template not in above:
                    above[template] = before + shown_before(template, shown)
                key = (relation.name, fact.subject, fact.object, template)
                asked.setdefault(key, Question(fact, template, above[template]))
    if not asked:
        raise NothingFoundError(few or "there are no facts to ask about")
    return list(asked.values())


def demonstrations_of(relation: Relation, shots: int, seed: int = 0) -> tuple[Fact, ...] | None:
    """So many facts of different subjects, drawn by the seed, of different objects where there are.

    None where less than two subjects would be left to ask about.
    """
    if not shots:
        return ()
    by_subject = {fact.subject: fact for fact in reversed(relation.facts)}
    facts = [by_subject[subject] for subject in relation.subjects()]
    if len(facts) < shots + 2:
        return None
    random.Random(f"{seed}/{relation.name}").shuffle(facts)
    by_object = {fact.object: fact for fact in reversed(facts)}
    different = [fact for fact in facts if by_object[fact.object] is fact]
    others = [fact for fact in facts if by_object[fact.object] is not fact]
    return tuple([*different, *others][:shots])


def chosen_templates(
    relation: Relation, templates: Templates | str | Sequence[str]
) -> Sequence[str]:
    """The wordings that a choice of templates means; NothingFoundError where it has none."""
    if isinstance(templates, str):
        templates = Templates.of(templates, "templates")
    if isinstance(templates, Templates):
        first = relation.templates[:FIRST_TEMPLATES]
        chosen: Sequence[str] = {
            Templates.FIRST: first,
            Templates.USUAL: relation.usual or first,
            Templates.BEST: relation.best or first,
            Templates.TRAIN: relation.templates,
            Templates.HELD_OUT: relation.held_out,
            Templates.ALL: (*relation.templates, *relation.held_out),
        }[templates]
    else:
        chosen = tuple(dict.fromkeys(templates))
    if not chosen:
        kind = "held-out templates" if templates == Templates.HELD_OUT else "templates"
        raise NothingFoundError(f"relation {relation.name!r} has no {kind}")
    for template in chosen:
        fill(template, "")
    return chosen


def _as_list(relations: Relation | Iterable[Relation]) -> list[Relation]:
    return [relations] if isinstance(relations, Relation) else list(relations)
