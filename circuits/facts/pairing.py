"""Prompt pairs that differ in the subject: with whom each known fact is paired.

A partner is another known subject of the same relation, asked in the same template with the same
number of tokens, whose object begins with another token. Where every such partner's object begins
like the fact's own, as years do, both prompts go on with what the objects have in common, and the
first tokens that differ are answer and foil. Whatever is left out is counted, with its reason.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from circuits.base.errors import OptionError, PromptError
from circuits.facts.facts import Fact
from circuits.facts.knowledge import encode
from circuits.facts.pairs import PromptPair, shared_length
from circuits.facts.questions import Answer, KnowledgeCheck, Question
from circuits.model.tokens import Tokenizer


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


class _Tokens(NamedTuple):
    """What pairing needs of a tokenised question: its length and the answer's tokens."""

    length: int
    answer: tuple[int, ...]


class _Pool:
    """The known questions, indexed for finding partners."""

    def __init__(self, tokenizer: Tokenizer, check: KnowledgeCheck, bos: bool | None) -> None:
        self.tokenizer, self.bos = tokenizer, bos
        self.by_fact: dict[Fact, list[str]] = {}
        self.by_template: dict[tuple[str, str], list[Fact]] = {}
        self.own_wording: dict[str, list[Fact]] = {}
        self.true: dict[tuple[str, str], set[str]] = {}
        self.known: dict[tuple[Fact, str], Answer] = {}
        self.encoded: dict[tuple[str, ...], _Tokens | None] = {}
        for answer in check.answers:
            fact, template = answer.question.fact, answer.question.template
            true = self.true.setdefault((fact.relation, fact.subject), set())
            true.update(fact.accepted)
            if answer.known:
                self.known[fact, template] = answer
                self.by_fact.setdefault(fact, []).append(template)
                self.by_template.setdefault((fact.relation, template), []).append(fact)
                if fact.template == template:
                    self.own_wording.setdefault(fact.relation, []).append(fact)

    def pair(self, fact: Fact, turn: int, seed: int) -> PromptPair | Unpaired:
        """The fact's pair in the first of its templates, from its turn's on, that has a partner.

        Partners whose answers begin alike come last.
        """
        templates = self.by_fact[fact]
        reason = Unpaired.NO_OTHER_SUBJECT
        for alike in (False, True):
            for step in range(len(templates)):
                template = templates[(turn + step) % len(templates)]
                outcome = self._pair_in(fact, template, seed, alike)
                if isinstance(outcome, PromptPair):
                    return outcome
                reason = nearer(reason, outcome)
            if reason != Unpaired.FIRST_TOKEN:
                break
        return reason

    def _pair_in(self, fact: Fact, template: str, seed: int, alike: bool) -> PromptPair | Unpaired:
        """The nearest miss is the reason, where no candidate passes every test."""
        shared = self.by_template[fact.relation, template]
        candidates = self.own_wording[fact.relation] if fact.template == template else shared
        others = [other for other in candidates if other.subject != fact.subject]
        random.Random(f"{seed}/{fact.relation}/{fact.subject}/{template}").shuffle(others)
        clean, reason = self.known[fact, template], Unpaired.NO_OTHER_SUBJECT
        for other in others:
            theirs = self._known(other, template)
            failure = self._failure(clean, theirs, alike)
            if failure is None:
                words = clean.question.prompt, self._asked(other, clean).prompt
                objects = clean.answer, theirs.answer
                asked = clean.question
                about = (fact.subject, fact.relation)
                start = len(asked.before)
                return PromptPair(*words, *objects, *about, spans=asked.spans, start=start)
            reason = nearer(reason, failure)
        return reason

    def _known(self, fact: Fact, template: str) -> Answer:
        """How a candidate is known: in the template, or in the wording that is its own."""
        return self.known.get((fact, template)) or self.known[fact, fact.template or template]

    @staticmethod
    def _asked(other: Fact, clean: Answer) -> Question:
        return Question(other, clean.question.template, clean.question.before)

    def _failure(self, clean: Answer, theirs: Answer, alike: bool) -> Unpaired | None:
        """The first test that a partner fails; None where it will do."""
        fact, other = clean.question.fact, theirs.question.fact
        own_tokens = self._tokens(clean.question, clean.answer)
        their_tokens = self._tokens(self._asked(other, clean), theirs.answer)
        if own_tokens is None or their_tokens is None:
            return Unpaired.NO_OTHER_SUBJECT
        also_true = self.true[fact.relation, fact.subject]
        if theirs.answer in also_true or (clean.answer in self.true[other.relation, other.subject]):
            return Unpaired.ALSO_TRUE
        if own_tokens.length != their_tokens.length:
            return Unpaired.LENGTH
        shared = shared_length(own_tokens.answer, their_tokens.answer)
        if not shared:
            return None
        whole = min(len(own_tokens.answer), len(their_tokens.answer))
        asked = min(clean.right or 0, theirs.right or 0)
        return None if alike and shared < min(whole, asked) else Unpaired.FIRST_TOKEN

    def _tokens(self, question: Question, answer: str) -> _Tokens | None:
        """Length and answer of a question; None where it cannot be asked."""
        fact = question.fact
        key = (fact.relation, question.template, fact.subject, answer)
        if key not in self.encoded:
            try:
                alone = replace(question, fact=replace(fact, object=answer, aliases=()))
                found = encode(self.tokenizer, alone, self.bos)
                self.encoded[key] = _Tokens(len(found.prompt), found.accepted[0])
            except PromptError:
                self.encoded[key] = None
        return self.encoded[key]


def nearer(one: Unpaired, other: Unpaired) -> Unpaired:
    """The reason that stands later in the order of the tests: the nearer miss."""
    return max(one, other, key=list(Unpaired).index)
