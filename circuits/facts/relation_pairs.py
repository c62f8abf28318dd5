"""Prompt pairs that differ in the relation: the same subject is asked something else.

Pairs of `circuits.facts.questions` exchange the subject and so find what tells subjects apart;
these exchange the relation's words and find what tells relations apart. The partner is another
relation of the subject that the model knows, in a wording with as many tokens, in which the subject
stands at the same places: so only the words around it differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from circuits.base.errors import OptionError, PromptError
from circuits.facts.facts import Fact, Relation
from circuits.facts.pairing import PairingReport, Unpaired, nearer
from circuits.facts.pairs import PromptPair
from circuits.facts.questions import Answer, KnowledgeCheck, Question
from circuits.model.tokens import Tokenizer

_True = dict[tuple[str, str], set[str]]  # texts that are true, by relation and subject


class _Place(NamedTuple):
    """Where the subject stands in a prompt."""

    length: int
    start: int
    stop: int


class _Known(NamedTuple):
    """A known question, tokenised; `first` is the first token of its answer."""

    answer: Answer
    place: _Place
    first: int

    @property
    def question(self) -> Question:
        return self.answer.question

    @property
    def fact(self) -> Fact:
        return self.answer.question.fact


def relations_with_subjects_of(
    relations: Iterable[Relation], among: Iterable[Relation]
) -> list[Relation]:
    """Those of `among` that ask of at least one of the relations' subjects, cut to these."""
    chosen = list(relations)
    subjects = {subject for each in chosen for subject in each.subjects()}
    found = []
    for each in among:
        facts = tuple(fact for fact in each.facts if fact.subject in subjects)
        if facts and (len(chosen) > 1 or each.name != chosen[0].name):
            found.append(replace(each, facts=facts))
    return found


def make_relation_pairs(
    tokenizer: Tokenizer,
    check: KnowledgeCheck,
    others: KnowledgeCheck,
    seed: int = 0,
    n: int | None = None,
    bos: bool | None = None,
) -> PairingReport:
    """One pair for each known fact of `check`, or for `n` of them chosen by the seed.

    `others` are answers about other relations of the same subjects; a partner is known in the
    wording it is asked in, its answer is not true of the clean prompt nor the clean answer of it,
    and begins with another token. Answers are the accepted ones that the model gives. Facts take
    their templates in turn. The result depends on the answers and the seed only.
    """
    if n is not None and n < 1:
        raise OptionError(f"the number of pairs must be at least 1, not {n}")
    partners = _by_subject(tokenizer, others, bos)
    true = _true_texts([*check.answers, *others.answers])
    by_fact: dict[Fact, list[_Known]] = {}
    for known in _encoded(tokenizer, check, bos):
        by_fact.setdefault(known.fact, []).append(known)
    facts = _in_order(by_fact, seed, n)
    made: dict[Fact, PromptPair] = {}
    unpaired: list[tuple[Fact, Unpaired]] = []
    for turn, fact in enumerate(facts):
        if n is not None and len(made) == n:
            break
        outcome = _pair(by_fact[fact], partners.get(fact.subject, []), true, turn, seed)
        if isinstance(outcome, PromptPair):
            made[fact] = outcome
        else:
            unpaired.append((fact, outcome))
    asked = dict.fromkeys(answer.question.fact for answer in check.answers)
    unusable = {q.fact: (q.fact, why) for q, why in check.unusable if q.fact not in asked}
    return PairingReport(
        pairs=tuple(made[fact] for fact in by_fact if fact in made),
        unknown=tuple(fact for fact in asked if fact not in by_fact),
        unpaired=tuple(unpaired),
        unusable=tuple(unusable.values()),
    )


def known_in_order(check: KnowledgeCheck, seed: int = 0, n: int | None = None) -> list[Fact]:
    """The known facts in the order in which `make_relation_pairs` takes them."""
    return _in_order(dict.fromkeys(question.fact for question in check.known), seed, n)


def _in_order(facts: Iterable[Fact], seed: int, n: int | None) -> list[Fact]:
    order = list(facts)
    if n is not None:
        random.Random(seed).shuffle(order)
    return order


def _pair(
    wordings: list[_Known],
    partners: list[_Known],
    true: _True,
    turn: int,
    seed: int,
) -> PromptPair | Unpaired:
    """The fact's pair in the first wording, from its turn's on, that has a partner."""
    reason = Unpaired.NO_OTHER_RELATION
    for step in range(len(wordings)):
        clean = wordings[(turn + step) % len(wordings)]
        fact = clean.fact
        order = [each for each in partners if each.fact.relation != fact.relation]
        random.Random(f"{seed}/{fact.relation}/{clean.question.prompt}").shuffle(order)
        for other in order:
            failure = _failure(clean, other, true)
            if failure is None:
                words = clean.question.prompt, other.question.prompt
                objects = clean.answer.answer, other.answer.answer
                asked = clean.question
                about = (fact.subject, fact.relation)
                start = len(asked.before)
                return PromptPair(*words, *objects, *about, spans=asked.spans, start=start)
            reason = nearer(reason, failure)
    return reason


def _failure(clean: _Known, other: _Known, true: _True) -> Unpaired | None:
    """The first test that a partner fails; None where it will do."""
    of_clean, of_other = (true[each.fact.relation, each.fact.subject] for each in (clean, other))
    if other.answer.answer in of_clean or clean.answer.answer in of_other:
        return Unpaired.ALSO_TRUE
    if clean.place != other.place:
        return Unpaired.PLACES
    return Unpaired.FIRST_TOKEN if clean.first == other.first else None


def _true_texts(answers: Iterable[Answer]) -> _True:
    """All that is true of each subject under each relation, aliases included."""
    true: _True = {}
    for answer in answers:
        fact = answer.question.fact
        texts = true.setdefault((fact.relation, fact.subject), set())
        texts.update(fact.accepted)
    return true


def _by_subject(
    tokenizer: Tokenizer, check: KnowledgeCheck, bos: bool | None
) -> dict[str, list[_Known]]:
    found: dict[str, list[_Known]] = {}
    for known in _encoded(tokenizer, check, bos):
        found.setdefault(known.fact.subject, []).append(known)
    return found


def _encoded(tokenizer: Tokenizer, check: KnowledgeCheck, bos: bool | None) -> list[_Known]:
    """The known questions that can be placed."""
    found = []
    for answer in check.answers:
        if not answer.known:
            continue
        question, fact = answer.question, answer.question.fact
        try:
            prompt = tokenizer.encode(question.prompt, bos)
            span = prompt.span_of(fact.subject, question.place)
            first = tokenizer.first_token(question.prompt, answer.answer)
        except PromptError:
            continue
        place = _Place(len(prompt), span.start, span.stop)
        found.append(_Known(answer, place, first))
    return found
