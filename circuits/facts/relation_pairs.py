"""Prompt pairs that differ in the relation: the same subject is asked something else.

Pairs of `circuits.facts.questions` exchange the subject and so find what tells subjects apart;
these exchange the relation's words and find what tells relations apart. The partner is another
relation of the subject that the model knows, in a wording with as many tokens, in which the subject
stands at the same places: so only the words around it differ.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from circuits.base.errors import OptionError, PromptError
from circuits.facts.facts import Fact, Relation
from circuits.facts.pairing import PairingReport, Unpaired, nearer
from circuits.facts.pairs import PromptPair
from circuits.facts.questions import KnowledgeCheck, Question
from circuits.model.tokens import Tokenizer


class _Place(NamedTuple):
    """Where the subject stands in a prompt."""

    length: int
    start: int
    stop: int


class _Known(NamedTuple):
    """A known question, tokenised."""

    question: Question
    place: _Place
    answer: int


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
    wording it is asked in, its object is not true of the clean prompt, and begins with another
    token. Facts take their templates in turn. The result depends on the answers and the seed only.
    """
    if n is not None and n < 1:
        raise OptionError(f"the number of pairs must be at least 1, not {n}")
    partners = _by_subject(tokenizer, others, bos)
    true = _true_objects(check)
    by_fact: dict[Fact, list[_Known]] = {}
    for known in _encoded(tokenizer, check, bos):
        by_fact.setdefault(known.question.fact, []).append(known)
    facts = _in_order(by_fact, seed, n)
    made: dict[Fact, PromptPair] = {}
    unpaired: list[tuple[Fact, Unpaired]] = []
    for turn, fact in enumerate(facts):
        if n is not None and len(made) == n:
            break
        also_true = true[fact.relation, fact.subject]
        outcome = _pair(by_fact[fact], partners.get(fact.subject, []), also_true, turn, seed)
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
    also_true: Collection[str],
    turn: int,
    seed: int,
) -> PromptPair | Unpaired:
    """The fact's pair in the first wording, from its turn's on, that has a partner."""
    reason = Unpaired.NO_OTHER_RELATION
    for step in range(len(wordings)):
        clean = wordings[(turn + step) % len(wordings)]
        fact = clean.question.fact
        order = [each for each in partners if each.question.fact.relation != fact.relation]
        random.Random(f"{seed}/{fact.relation}/{clean.question.prompt}").shuffle(order)
        for other in order:
            failure = _failure(clean, other, also_true)
            if failure is None:
                words = clean.question.prompt, other.question.prompt
                objects = fact.object, other.question.fact.object
                asked = clean.question
                about = (fact.subject, fact.relation)
                start = len(asked.before)
                return PromptPair(*words, *objects, *about, spans=asked.spans, start=start)
            reason = nearer(reason, failure)
    return reason


def _failure(clean: _Known, other: _Known, also_true: Collection[str]) -> Unpaired | None:
    """The first test that a partner fails; None where it will do."""
    if other.question.fact.object in also_true:
        return Unpaired.ALSO_TRUE
    if clean.place != other.place:
        return Unpaired.PLACES
    return Unpaired.FIRST_TOKEN if clean.answer == other.answer else None


def _true_objects(check: KnowledgeCheck) -> dict[tuple[str, str], set[str]]:
    true: dict[tuple[str, str], set[str]] = {}
    for answer in check.answers:
        fact = answer.question.fact
        true.setdefault((fact.relation, fact.subject), set()).add(fact.object)
    return true


def _by_subject(
    tokenizer: Tokenizer, check: KnowledgeCheck, bos: bool | None
) -> dict[str, list[_Known]]:
    found: dict[str, list[_Known]] = {}
    for known in _encoded(tokenizer, check, bos):
        found.setdefault(known.question.fact.subject, []).append(known)
    return found


def _encoded(tokenizer: Tokenizer, check: KnowledgeCheck, bos: bool | None) -> list[_Known]:
    """The known questions that can be placed."""
    found = []
    for question in check.known:
        fact = question.fact
        try:
            prompt = tokenizer.encode(question.prompt, bos)
            span = prompt.span_of(fact.subject, question.place)
            answer = tokenizer.first_token(question.prompt, fact.object)
        except PromptError:
            continue
        place = _Place(len(prompt), span.start, span.stop)
        found.append(_Known(question, place, answer))
    return found
