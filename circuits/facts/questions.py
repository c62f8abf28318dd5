"""From relations to prompt pairs: what the model knows, and with whom each subject is paired.

1. `questions` words facts: every fact in each of the chosen templates.
2. `known_facts` asks the model all of them; a fact is known in a wording where the answer's first
   token is the argmax after the prompt.
3. `make_pairs` gives each known fact a partner: another known subject of the same relation, asked
   in the same template with the same number of tokens, whose object begins with another token.
Whatever is left out on the way is counted, with its reason.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

import torch

from circuits.base.choices import Templates
from circuits.base.errors import OptionError, PromptError
from circuits.facts.facts import Fact, Relation, fill, place_in
from circuits.facts.pairs import SUBJECT, PromptPair
from circuits.model.holding import alone
from circuits.model.metrics import answer_probability, rank
from circuits.model.model import Model
from circuits.model.tokens import Prompt, Tokenizer

FIRST_TEMPLATES = 3
"""How many templates `Templates.FIRST` stands for: enough to tell a fact from its wording."""


@dataclass(frozen=True)
class Question:
    """A fact in words."""

    fact: Fact
    template: str

    @property
    def prompt(self) -> str:
        """The prompt that the object continues."""
        return fill(self.template, self.fact.subject)

    @property
    def spans(self) -> tuple[tuple[str, str, int], ...]:
        """The subject's place, for a prompt pair; empty where the prompt's words tell it."""
        place = place_in(self.template, self.fact.subject)
        return ((SUBJECT, self.fact.subject, place),) if place else ()


@dataclass(frozen=True)
class Answer:
    """How the model does on a question: rank (0 is best) and probability of the first token."""

    question: Question
    rank: int
    probability: float

    @property
    def known(self) -> bool:
        """Whether no token scores higher than the answer's first token."""
        return self.rank == 0


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

    def describe(self) -> str:
        """One line with the counts."""
        line = f"{len(self.known)} of {len(self.answers)} questions answered right"
        if self.unusable:
            line += f"; {len(self.unusable)} could not be asked, as: {self.unusable[0][1]}"
        return line


class Unpaired(StrEnum):
    """Why a known fact has no corrupted prompt."""

    NO_OTHER_SUBJECT = "no other known subject in its template"
    NO_OTHER_RELATION = "no other relation of its subject is known"
    ALSO_TRUE = "the others' objects are true of it too, or its own of them"
    LENGTH = "no other subject with as many tokens"
    PLACES = "no other relation's wording has as many tokens before and after the subject"
    FIRST_TOKEN = "the others' objects begin with the same token"


@dataclass(frozen=True)
class PairingReport:
    """The pairs, and what became of all other facts.

    `unknown` are facts that the model does not know in any template, `unpaired` known facts
    without a partner, `unusable` facts that could not be asked at all.
    """

    pairs: tuple[PromptPair, ...]
    unknown: tuple[Fact, ...]
    unpaired: tuple[tuple[Fact, Unpaired], ...]
    unusable: tuple[tuple[Fact, str], ...] = ()

    def describe(self) -> str:
        """One line with the counts."""
        line = f"{len(self.pairs)} pairs; {len(self.unknown)} facts not known to the model"
        for reason, count in Counter(reason for _, reason in self.unpaired).most_common():
            line += f"; {count} without a partner ({reason})"
        if self.unusable:
            line += f"; {len(self.unusable)} that cannot be asked, as: {self.unusable[0][1]}"
        return line


def questions(
    relations: Relation | Iterable[Relation],
    templates: Templates | str | Sequence[str] = Templates.FIRST,
) -> list[Question]:
    """Every fact in each of the chosen templates, once.

    `Templates.FIRST` are the first three training templates, `TRAIN` all of them, `HELD_OUT` those
    no trained model has seen; a list of templates is taken as it is. Facts with their own wording
    are asked in that one unless a list is given. OptionError where a relation has none.
    """
    if isinstance(templates, str):
        templates = Templates.of(templates)
    asked: dict[tuple[str, str, str, str], Question] = {}
    for relation in _as_list(relations):
        chosen = _choose(relation, templates)
        for fact in relation.facts:
            own = fact.template if isinstance(templates, Templates) else None
            for template in (own,) if own else chosen:
                key = (relation.name, fact.subject, fact.object, template)
                asked.setdefault(key, Question(fact, template))
    if not asked:
        raise OptionError("there are no facts to ask about")
    return list(asked.values())


@alone
def known_facts(
    model: Model,
    relations: Relation | Iterable[Relation],
    templates: Templates | str | Sequence[str] = Templates.FIRST,
    bos: bool | None = None,
    batch_size: int = 32,
) -> KnowledgeCheck:
    """Ask the model every question; prompts of one length share a batch, nothing is padded.

    The answers' order is that of `questions` and does not depend on the batch size.
    """
    if batch_size < 1:
        raise OptionError(f"batch size must be at least 1, not {batch_size}")
    usable, unusable = _encode(model.tokenizer, questions(relations, templates), bos)
    order = sorted(range(len(usable)), key=lambda index: len(usable[index].prompt))
    found: dict[int, Answer] = {}
    for _, group in groupby(order, key=lambda index: len(usable[index].prompt)):
        members = list(group)
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            answers = _ask(model, [usable[index] for index in rows])
            found.update(zip(rows, answers, strict=True))
    return KnowledgeCheck(tuple(found[index] for index in range(len(usable))), tuple(unusable))


def make_pairs(
    tokenizer: Tokenizer,
    check: KnowledgeCheck,
    seed: int = 0,
    n: int | None = None,
    bos: bool | None = None,
) -> PairingReport:
    """One pair for each known fact, or for `n` of them chosen by the seed.

    Facts take the templates in turn, so that the pairs spread over all of them; a fact that is not
    known or has no partner in its turn's template takes the next. A partner is asked in the clean
    prompt's template and known in it (facts with a wording of their own: known in theirs). The
    result depends on the answers and the seed only.
    """
    if n is not None and n < 1:
        raise OptionError(f"the number of pairs must be at least 1, not {n}")
    pool = _Pool(tokenizer, check, bos)
    facts = list(pool.by_fact)
    if n is not None:
        random.Random(seed).shuffle(facts)
    made: dict[Fact, PromptPair] = {}
    unpaired: list[tuple[Fact, Unpaired]] = []
    for turn, fact in enumerate(facts):
        if n is not None and len(made) == n:
            break
        outcome = pool.pair(fact, turn, seed)
        if isinstance(outcome, PromptPair):
            made[fact] = outcome
        else:
            unpaired.append((fact, outcome))
    known = set(pool.by_fact)
    asked = dict.fromkeys(answer.question.fact for answer in check.answers)
    return PairingReport(
        pairs=tuple(made[fact] for fact in pool.by_fact if fact in made),
        unknown=tuple(fact for fact in asked if fact not in known),
        unpaired=tuple(unpaired),
        unusable=tuple(
            {
                q.fact: (q.fact, reason) for q, reason in check.unusable if q.fact not in asked
            }.values()
        ),
    )


@alone
def pairs_for(
    model: Model,
    relations: Relation | Iterable[Relation],
    templates: Templates | str | Sequence[str] = Templates.FIRST,
    seed: int = 0,
    n: int | None = None,
    bos: bool | None = None,
    batch_size: int = 32,
) -> PairingReport:
    """`known_facts`, then `make_pairs`; PromptError where no pair comes of it, saying why."""
    check = known_facts(model, relations, templates, bos, batch_size)
    report = make_pairs(model.tokenizer, check, seed, n, bos)
    if not report.pairs:
        raise PromptError(f"no prompt pairs can be made for {model.name!r}: {report.describe()}")
    return report


def assume_known(
    tokenizer: Tokenizer, asked: Iterable[Question], bos: bool | None = None
) -> KnowledgeCheck:
    """A check that takes every question for known, where no model is to be asked."""
    usable, unusable = _encode(tokenizer, asked, bos)
    return KnowledgeCheck(tuple(Answer(each.question, 0, 1.0) for each in usable), tuple(unusable))


# --- asking --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Encoded:
    question: Question
    prompt: Prompt
    answer: int


def _encode(
    tokenizer: Tokenizer, asked: Iterable[Question], bos: bool | None
) -> tuple[list[_Encoded], list[tuple[Question, str]]]:
    usable: list[_Encoded] = []
    unusable: list[tuple[Question, str]] = []
    tokenizer.use_bos(bos)  # a wrong choice is the caller's mistake, not each question's
    for question in asked:
        try:
            prompt = tokenizer.encode(question.prompt, bos)
            prompt.span_of(
                question.fact.subject, place_in(question.template, question.fact.subject)
            )
            answer = tokenizer.first_token(question.prompt, question.fact.object)
        except PromptError as error:
            unusable.append((question, str(error)))
        else:
            usable.append(_Encoded(question, prompt, answer))
    return usable, unusable


@torch.no_grad()
def _ask(model: Model, rows: Sequence[_Encoded]) -> Iterator[Answer]:
    tokens = torch.tensor([row.prompt.ids for row in rows], device=model.device)
    target = torch.tensor([row.answer for row in rows], device=model.device)
    logits = model.last_logits(tokens).float()
    ranks, probabilities = rank(logits, target), answer_probability(logits, target)
    for row, place, share in zip(rows, ranks.tolist(), probabilities.tolist(), strict=True):
        yield Answer(row.question, place, share)


# --- pairing -------------------------------------------------------------------------------------


class _Tokens(NamedTuple):
    """What pairing needs of a tokenised prompt: its length and the answer's first token."""

    length: int
    answer: int


class _Pool:
    """The known questions, indexed for finding partners."""

    def __init__(self, tokenizer: Tokenizer, check: KnowledgeCheck, bos: bool | None) -> None:
        self.tokenizer, self.bos = tokenizer, bos
        self.by_fact: dict[Fact, list[str]] = {}
        self.by_template: dict[tuple[str, str], list[Fact]] = {}
        self.own_wording: dict[str, list[Fact]] = {}
        self.true: dict[tuple[str, str], set[str]] = {}
        self.encoded: dict[tuple[str, str, str], _Tokens | None] = {}
        for answer in check.answers:
            fact, template = answer.question.fact, answer.question.template
            self.true.setdefault((fact.relation, fact.subject), set()).add(fact.object)
            if answer.known:
                self.by_fact.setdefault(fact, []).append(template)
                self.by_template.setdefault((fact.relation, template), []).append(fact)
                if fact.template == template:
                    self.own_wording.setdefault(fact.relation, []).append(fact)

    def pair(self, fact: Fact, turn: int, seed: int) -> PromptPair | Unpaired:
        """The fact's pair in the first of its templates, from its turn's on, that has a partner."""
        templates = self.by_fact[fact]
        reason = Unpaired.NO_OTHER_SUBJECT
        for step in range(len(templates)):
            template = templates[(turn + step) % len(templates)]
            outcome = self._pair_in(fact, template, seed)
            if isinstance(outcome, PromptPair):
                return outcome
            reason = nearer(reason, outcome)
        return reason

    def _pair_in(self, fact: Fact, template: str, seed: int) -> PromptPair | Unpaired:
        """The nearest miss is the reason, where no candidate passes every test."""
        shared = self.by_template[fact.relation, template]
        candidates = self.own_wording[fact.relation] if fact.template == template else shared
        others = [other for other in candidates if other.subject != fact.subject]
        random.Random(f"{seed}/{fact.relation}/{fact.subject}/{template}").shuffle(others)
        own, reason = self._tokens(fact, template), Unpaired.NO_OTHER_SUBJECT
        for other in others:
            failure = self._failure(fact, own, other, template)
            if failure is None:
                clean, corrupted = fill(template, fact.subject), fill(template, other.subject)
                return PromptPair(
                    clean,
                    corrupted,
                    fact.object,
                    other.object,
                    fact.subject,
                    fact.relation,
                    spans=Question(fact, template).spans,
                )
            reason = nearer(reason, failure)
        return reason

    def _failure(
        self, fact: Fact, own: _Tokens | None, other: Fact, template: str
    ) -> Unpaired | None:
        """The first test that a partner fails; None where it will do."""
        theirs = self._tokens(other, template)
        if own is None or theirs is None:
            return Unpaired.NO_OTHER_SUBJECT
        also_true = self.true[fact.relation, fact.subject]
        if other.object in also_true or fact.object in self.true[other.relation, other.subject]:
            return Unpaired.ALSO_TRUE
        if own.length != theirs.length:
            return Unpaired.LENGTH
        return Unpaired.FIRST_TOKEN if own.answer == theirs.answer else None

    def _tokens(self, fact: Fact, template: str) -> _Tokens | None:
        """Length and answer of the fact's prompt; None where it cannot be asked in the template."""
        key = (template, fact.subject, fact.object)
        if key not in self.encoded:
            encoded, _ = _encode(self.tokenizer, [Question(fact, template)], self.bos)
            self.encoded[key] = (
                _Tokens(len(encoded[0].prompt), encoded[0].answer) if encoded else None
            )
        return self.encoded[key]


def nearer(one: Unpaired, other: Unpaired) -> Unpaired:
    """The reason that stands later in the order of the tests: the nearer miss."""
    return max(one, other, key=list(Unpaired).index)


def _choose(relation: Relation, templates: Templates | Sequence[str]) -> Sequence[str]:
    if isinstance(templates, Templates):
        chosen: Sequence[str] = {
            Templates.FIRST: relation.templates[:FIRST_TEMPLATES],
            Templates.TRAIN: relation.templates,
            Templates.HELD_OUT: relation.held_out,
            Templates.ALL: (*relation.templates, *relation.held_out),
        }[templates]
    else:
        chosen = tuple(dict.fromkeys(templates))
    if not chosen:
        kind = "held-out templates" if templates == Templates.HELD_OUT else "templates"
        raise OptionError(f"relation {relation.name!r} has no {kind}")
    for template in chosen:
        fill(template, "")
    return chosen


def _as_list(relations: Relation | Iterable[Relation]) -> list[Relation]:
    return [relations] if isinstance(relations, Relation) else list(relations)
