"""What a model knows: every question is asked, and the answer's place decides (`Known`).

The first token of the answer counts. Where other objects of the relation begin with the same
tokens, as years do, the answer's own tokens are put after the prompt one by one and the next ones
are asked as well, up to the first that tells the objects apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Known, Templates
from circuits.base.errors import OptionError, PromptError
from circuits.facts.batches import PASS, groups_for, padded
from circuits.facts.facts import FIRST_TEMPLATES, Relation
from circuits.facts.pairs import shared_length
from circuits.facts.questions import Answer, KnowledgeCheck, Question, questions
from circuits.model.holding import alone
from circuits.model.metrics import answer_probability, rank
from circuits.model.model import Model, Prefix
from circuits.model.tokens import Prompt, Tokenizer, find_mentions

Tokens = tuple[int, ...]
KnownLike = Known | str | Callable[..., Any]
SAMPLE = 12
"""Facts that decide which templates are a relation's best."""


def among_tokens(place: int, among: int) -> int:
    """The place among all tokens."""
    return place


def among_objects(place: int, among: int) -> int:
    """The place among the first tokens of the relation's objects."""
    return among


@alone
def known_facts(
    model: Model,
    relations: Relation | Iterable[Relation],
    templates: Templates | str | Sequence[str] = Templates.FIRST,
    bos: bool | None = None,
    batch_size: int = 32,
    *,
    known: KnownLike = Known.TOP1,
    shots: int = 0,
    seed: int = 0,
    before: str = "",
) -> KnowledgeCheck:
    """Ask the model every question; `shots`, `seed` and `before` as of `questions`.

    The answers' order is that of `questions` and does not depend on the batch size.
    """
    chosen = [relations] if isinstance(relations, Relation) else list(relations)
    asked = questions(chosen, templates, shots=shots, seed=seed, before=before)
    return ask(model, asked, chosen, bos, batch_size, known)


@alone
def ask(
    model: Model,
    asked: Sequence[Question],
    relations: Iterable[Relation],
    bos: bool | None = None,
    batch_size: int = 32,
    known: KnownLike = Known.TOP1,
) -> KnowledgeCheck:
    """Ask the model some questions about facts of the relations, whose objects are the rivals.

    What stands before them is run once for prompts that have it in common.
    """
    if batch_size < 1:
        raise OptionError(f"batch size must be at least 1, not {batch_size}")
    criterion = Known.of(known, "known")
    usable, unusable = _encode(model.tokenizer, asked, bos)
    rivals = _Rivals(model.tokenizer, relations)
    questions_ = [replace(each, rivals=rivals.of(each.question)) for each in usable]
    answers = _ask_all(model, questions_, batch_size, criterion)
    deeper = {
        place: each
        for place, (each, answer) in enumerate(zip(questions_, answers, strict=True))
        if answer.known and each.depth(answer) > 1
    }
    depth = 1
    while deeper:
        steps = [each.after(answers[place], depth) for place, each in deeper.items()]
        found = _ask_all(model, steps, batch_size, criterion)
        right = [place for place, answer in zip(deeper, found, strict=True) if answer.known]
        depth += 1
        for place in right:
            answers[place] = replace(answers[place], right=depth)
        deeper = {p: each for p in right if (each := deeper[p]).depth(answers[p]) > depth}
    return KnowledgeCheck(tuple(answers), tuple(unusable))


@alone
def with_best(
    model: Model,
    relations: Iterable[Relation],
    bos: bool | None = None,
    batch_size: int = 32,
    *,
    known: KnownLike = Known.TOP1,
    shots: int = 0,
    seed: int = 0,
    before: str = "",
) -> list[Relation]:
    """The relations with the training templates that the model answers best as their `best`.

    They are chosen on a sample of facts drawn by the seed, so accuracy in them flatters the model;
    held-out templates are never chosen. Among equals the more probable answers decide.
    """
    found = []
    how: dict[str, Any] = {"shots": shots, "seed": seed, "before": before}
    for relation in relations:
        asked = questions(relation, relation.templates, **how)
        facts = list(dict.fromkeys(question.fact for question in asked))
        random.Random(f"{seed}/{relation.name}").shuffle(facts)
        sample = set(facts[:SAMPLE])
        chosen = [question for question in asked if question.fact in sample]
        scores: dict[str, tuple[int, float]] = {}
        for answer in ask(model, chosen, [relation], bos, batch_size, known).answers:
            right, sure = scores.get(answer.question.template, (0, 0.0))
            now = right + answer.known, sure + answer.probability
            scores[answer.question.template] = now
        order = sorted(scores, key=lambda template: scores[template], reverse=True)
        found.append(replace(relation, best=tuple(order[:FIRST_TEMPLATES])))
    return found


def assume_known(
    tokenizer: Tokenizer, asked: Iterable[Question], bos: bool | None = None
) -> KnowledgeCheck:
    """A check that takes every question for known, where no model is to be asked."""
    usable, unusable = _encode(tokenizer, asked, bos)
    answers = (Answer(each.question, 0, 1.0, right=len(each.accepted[0])) for each in usable)
    return KnowledgeCheck(tuple(answers), tuple(unusable))


def in_best_words(
    model: Model, relation: Relation, template: str, batch_size: int = 32
) -> Relation:
    """The relation with, as each object, the accepted answer that the model does best on.

    In the template; an object that cannot be asked there stays. Facts without `aliases` are not
    asked.
    """
    several = tuple(fact for fact in relation.facts if fact.aliases)
    if not several:
        return relation
    check = known_facts(model, replace(relation, facts=several), [template], batch_size=batch_size)
    best = {answer.question.fact: answer.answer for answer in check.answers}
    facts = (replace(f, object=best.get(f, f.object), aliases=()) for f in relation.facts)
    return replace(relation, facts=tuple(facts))


@dataclass(frozen=True)
class _Encoded:
    """A question in tokens, with the tokens of each accepted answer and of all objects."""

    question: Question
    prompt: Prompt
    accepted: tuple[Tokens, ...]
    rivals: frozenset[Tokens] = frozenset()

    @property
    def ids(self) -> Tokens:
        return self.prompt.ids

    def tokens(self, answer: Answer) -> Tokens:
        """Those of the accepted answer that the model does best on."""
        return self.accepted[self.question.fact.accepted.index(answer.answer)]

    def depth(self, answer: Answer) -> int:
        """How many tokens tell the answer from every other object; at most all of its own."""
        own = self.tokens(answer)
        shared = (shared_length(own, other) for other in self.rivals if other != own)
        return min(len(own), 1 + max(shared, default=0))

    def after(self, answer: Answer, depth: int) -> _Encoded:
        """The question once the answer's first tokens are said."""
        own = self.tokens(answer)
        begun = replace(self.prompt, ids=(*self.prompt.ids, *own[:depth]))
        rest = {each[depth:] for each in self.rivals if each[:depth] == own[:depth]}
        question = replace(self.question, fact=replace(self.question.fact, aliases=()))
        return _Encoded(question, begun, (own[depth:],), frozenset(rest - {()}))


def _encode(
    tokenizer: Tokenizer, asked: Iterable[Question], bos: bool | None
) -> tuple[list[_Encoded], list[tuple[Question, str]]]:
    usable: list[_Encoded] = []
    unusable: list[tuple[Question, str]] = []
    tokenizer.use_bos(bos)  # a wrong choice is the caller's mistake, not each question's
    for question in asked:
        try:
            usable.append(encode(tokenizer, question, bos))
        except PromptError as error:
            unusable.append((question, str(error)))
    return usable, unusable


def encode(tokenizer: Tokenizer, question: Question, bos: bool | None) -> _Encoded:
    """A question in tokens; PromptError where it cannot be asked."""
    prompt, fact = tokenizer.encode(question.prompt, bos), question.fact
    if question.before and find_mentions(question.before, fact.subject):
        raise PromptError(f"subject {fact.subject!r} stands in what is before the question")
    prompt.span_of(fact.subject, question.place)
    accepted = tuple(tokenizer.continuation(question.prompt, text) for text in fact.accepted)
    return _Encoded(question, prompt, accepted)


class _Rivals:
    """The tokens of all objects of a relation, as they go on after a prompt."""

    def __init__(self, tokenizer: Tokenizer, relations: Iterable[Relation]) -> None:
        self.tokenizer = tokenizer
        self.objects: dict[str, dict[str, None]] = {}
        for relation in relations:
            texts = (text for fact in relation.facts for text in fact.accepted)
            self.objects.setdefault(relation.name, {}).update(dict.fromkeys(texts))
        self.found: dict[tuple[str, str], frozenset[Tokens]] = {}

    def of(self, question: Question) -> frozenset[Tokens]:
        """Those after the question: the same after all prompts that end in an English word."""
        end = question.prompt[-2:]
        key = (question.fact.relation, "" if end.isascii() and end[-1:].isalnum() else end)
        if key not in self.found:
            objects = self.objects.get(question.fact.relation, {})
            self.found[key] = frozenset(self._continuations(question.prompt, objects))
        return self.found[key]

    def _continuations(self, prompt: str, objects: Iterable[str]) -> Iterator[Tokens]:
        for text in objects:
            try:
                yield self.tokenizer.continuation(prompt, text)
            except PromptError:
                continue


@torch.no_grad()
def _ask_all(
    model: Model, asked: Sequence[_Encoded], batch_size: int, known: Known
) -> list[Answer]:
    """The answers in the order of the questions."""
    found: dict[int, Answer] = {}
    for members, begun in _by_beginning(asked, wordings=not model.acts_by_place):
        first = torch.tensor([asked[members[0]].ids], device=model.device)
        prefix = model.share_prefix(first[:, :begun])
        lengths = [len(asked[place].ids) - begun for place in members]
        for group in groups_for(lengths, [0] * len(lengths), batch_size, model):
            places = [members[at] for at in group]
            answers = _ask(model, [asked[place] for place in places], prefix, known)
            found.update(zip(places, answers, strict=True))
    return [found[place] for place in range(len(asked))]


def _by_beginning(asked: Sequence[_Encoded], wordings: bool) -> Iterator[tuple[list[int], int]]:
    """Places of questions that begin alike, and how many tokens of that are run once.

    What stands before a question is; of `wordings` the beginning where that spares more than the
    pass that it takes, and the batches that it parts, cost.
    """
    alike: dict[tuple[str, str], list[int]] = {}
    for place, each in enumerate(asked):
        before = each.question.before
        alike.setdefault((before, "" if before else each.question.template), []).append(place)
    rest: list[int] = []
    for (before, _), members in alike.items():
        rows = [asked[place].ids for place in members]
        shared = min(min(shared_length(rows[0], row), len(row) - 1) for row in rows)
        if before or (wordings and (len(rows) - 1) * shared > 2 * PASS):
            yield members, shared
        else:
            rest += members
    if rest:
        yield rest, 0


def _ask(
    model: Model, rows: Sequence[_Encoded], prefix: Prefix | None, known: Known
) -> Iterator[Answer]:
    """Ranks and probabilities; of several accepted answers the one with the highest logit."""
    begun = prefix.length if prefix else 0
    tokens, ends = padded([row.ids[begun:] for row in rows], model.device)
    logits = model.last_logits(tokens, prefix=prefix, ends=ends).float()
    chosen = [_best(row.accepted, one) for row, one in zip(rows, logits, strict=True)]
    first = [row.accepted[n][0] for row, n in zip(rows, chosen, strict=True)]
    target = torch.tensor(first, device=model.device)
    ranks, shares = rank(logits, target).tolist(), answer_probability(logits, target).tolist()
    said = model.tokenizer.strings(logits.argmax(-1).tolist())
    for at, (row, own) in enumerate(zip(rows, first, strict=True)):
        among = place_among(logits[at], own, {each[0] for each in row.rivals})
        fact = row.question.fact
        yield Answer(
            question=row.question,
            rank=ranks[at],
            probability=shares[at],
            among=among,
            said=said[at],
            right=int(known.counts(ranks[at], among)),
            text=fact.accepted[chosen[at]] if fact.aliases else None,
        )


def _best(accepted: Sequence[Tokens], logits: Float[Tensor, " d_vocab"]) -> int:
    """Which of the accepted answers begins with the highest logit."""
    if len(accepted) == 1:
        return 0
    return int(logits[[each[0] for each in accepted]].argmax())


def place_among(logits: Float[Tensor, " d_vocab"], own: int, others: set[int]) -> int:
    """The rank of a token among some others."""
    tokens = [own, *sorted(others - {own})]
    return int(rank(logits[tokens][None], torch.tensor([0], device=logits.device))[0])
