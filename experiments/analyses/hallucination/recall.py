"""Questions that a model gets wrong although it knows the fact, each beside one it gets right.

1. Ask every fact of a relation in several wordings.
2. A *case* is a fact with a wording in which it is answered wrong, and one in which it is answered
   right: the likeliest right one, or, where no wording is, the wrong one after demonstrations.
3. Say what the wrong answer is: something that is true of the subject under another relation, an
   object of this relation that belongs to another subject, the subject's own words, or neither.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from circuits.base.errors import PromptError
from circuits.facts.batches import batches_of
from circuits.facts.demonstrations import can_demonstrate, with_demonstrations
from circuits.facts.facts import SLOT, Fact, Relation, fill
from circuits.facts.knowledge import known_facts
from circuits.facts.pairs import PromptPair, TokenPair
from circuits.facts.questions import Answer, KnowledgeCheck, Question
from circuits.model.model import Model
from circuits.model.tokens import Prompt, Span, Tokenizer


class Kind(StrEnum):
    """What a wrong answer is; where several hold, the first."""

    OTHER_RELATION = "of this subject, another relation"
    OTHER_SUBJECT = "of this relation, another subject"
    SUBJECT = "the subject's own words"
    NO_OBJECT = "no object"


KINDS = tuple(Kind)


@dataclass(frozen=True)
class Case:
    """One fact, asked so that it is answered wrong and so that it is answered right.

    Of the answers that the fact accepts its `object` is the one that the model does best on.
    `answer` is the true object's first token, `said` what the model says in its place. `again` is
    a second wording with a right answer, None where there is none; `by_demonstrations` says that
    only demonstrations made the answer right.
    """

    fact: Fact
    wrong: Prompt
    right: Prompt
    again: Prompt | None
    answer: int
    said: int
    kind: Kind
    wordings: tuple[str, str, str | None]
    by_demonstrations: bool

    @property
    def subjects(self) -> tuple[Span, Span]:
        """Where the subject stands in the wrong and in the right prompt."""
        wrong, right, _ = self.wordings
        return subject_at(self.wrong, self.fact, wrong), subject_at(self.right, self.fact, right)


@dataclass(frozen=True)
class Cases:
    """The cases of a relation, and how many facts and questions there were.

    `wrong` counts wrong answers among `questions`, `recoverable` the facts that are answered wrong
    in one wording and right in another way, `never` those answered right in no way.
    """

    cases: tuple[Case, ...]
    check: KnowledgeCheck
    facts: int
    recoverable: int
    never: int

    @property
    def questions(self) -> int:
        """How many questions were asked."""
        return len(self.check.answers)

    @property
    def wrong(self) -> int:
        """How many of them were answered wrong."""
        return len(self.check.unknown)


def find_cases(
    model: Model,
    relation: Relation,
    wordings: Sequence[str],
    n: int,
    *,
    others: Iterable[Relation] = (),
    demonstrations: int = 3,
    seed: int = 0,
    batch_size: int = 32,
) -> Cases:
    """At most `n` cases of a relation, drawn by the seed.

    A fact that is wrong in several wordings is taken in one of them, drawn as well. `others` are
    the relations in which a wrong answer may be true of the subject.
    """
    check = known_facts(model, relation, wordings, batch_size=batch_size)
    asked: dict[Fact, dict[str, Answer]] = {}
    for answer in check.answers:
        asked.setdefault(answer.question.fact, {})[answer.question.template] = answer
    missed = [f for f, found in asked.items() if not all(a.known for a in found.values())]
    unsure = [f for f in missed if any(a.known for a in asked[f].values())]
    hopeless = [f for f in missed if f not in set(unsure)]
    generator = random.Random(f"{seed}/{relation.name}")
    generator.shuffle(unsure)
    true_of = attributes(relation, others)
    cases: list[Case] = []
    for fact in unsure:
        if len(cases) == n:
            break
        found = _by_wording(model, fact, asked[fact], relation, true_of, generator)
        cases += [found] if found else []
    generator = random.Random(f"{seed}/{relation.name}/demonstrations")
    shown = [
        _shown(model.tokenizer, fact, asked[fact], relation, demonstrations, generator)
        for fact in (hopeless if demonstrations else [])
    ]
    recovered = _by_demonstrations(model, list(filter(None, shown)), relation, true_of, batch_size)
    return Cases(
        cases=tuple([*cases, *recovered][:n]),
        check=check,
        facts=len(asked),
        recoverable=len(unsure) + len(recovered),
        never=len(hopeless) - len(recovered),
    )


def attributes(relation: Relation, others: Iterable[Relation]) -> dict[str, set[str]]:
    """By subject the objects that it has under other relations of the same kind of subject."""
    found: dict[str, set[str]] = {}
    for other in others:
        if other.kind == relation.kind and other.name != relation.name:
            for fact in other.facts:
                found.setdefault(fact.subject, set()).update(fact.accepted)
    return found


def subject_at(prompt: Prompt, fact: Fact, wording: str) -> Span:
    """Where the question that ends the prompt, in this wording, has its subject."""
    start = len(prompt.text) - len(fill(wording, fact.subject)) + wording.index(SLOT)
    return prompt.span_at(start, start + len(fact.subject))


def kind_of(
    tokenizer: Tokenizer,
    fact: Fact,
    prompt: Prompt,
    wording: str,
    said: int,
    relation: Relation,
    true_of: Mapping[str, set[str]],
) -> Kind:
    """What the token `said` is; objects are recognised by their first token."""
    own = {
        text for each in relation.facts if each.subject == fact.subject for text in each.accepted
    }
    objects = dict.fromkeys(text for each in relation.facts for text in each.accepted)

    def begins(objects: Iterable[str]) -> bool:
        return any(_first(tokenizer, prompt.text, each) == said for each in objects)

    if begins(true_of.get(fact.subject, set()) - own):
        return Kind.OTHER_RELATION
    if begins(each for each in objects if each not in own):
        return Kind.OTHER_SUBJECT
    span = subject_at(prompt, fact, wording)
    if said in prompt.ids[span.start : span.stop]:
        return Kind.SUBJECT
    return Kind.NO_OBJECT


def partners(
    model: Model, case: Case, relation: Relation, n: int, generator: random.Random
) -> list[tuple[TokenPair, TokenPair, TokenPair | None]]:
    """The case as prompt pairs: wrong, right and again, each with the same other subject.

    Answer and foil are the true object and what was said, on all sides, so that one functional of
    the logits is compared. Empty where no other subject has as many tokens, or the answer was right
    by demonstrations only.
    """
    if case.by_demonstrations:
        return []
    pool = [f for f in relation.facts if f.subject != case.fact.subject]
    generator.shuffle(pool)
    made: list[tuple[TokenPair, TokenPair, TokenPair | None]] = []
    for other in pool:
        if len(made) == n:
            break
        if _first(model.tokenizer, case.wrong.text, other.object) in (case.answer, case.said, None):
            continue
        sides = [
            _pair(model.tokenizer, case, clean, wording, other)
            for clean, wording in zip(
                (case.wrong, case.right, case.again), case.wordings, strict=True
            )
        ]
        wrong, right, again = sides
        if wrong is not None and right is not None and (again is not None or case.again is None):
            made.append((wrong, right, again))
    return made


def _pair(
    tokenizer: Tokenizer, case: Case, clean: Prompt | None, wording: str | None, other: Fact
) -> TokenPair | None:
    if clean is None or wording is None:
        return None
    try:
        corrupted = tokenizer.encode(fill(wording, other.subject))
    except PromptError:
        return None
    if len(corrupted) != len(clean):
        return None
    fact, foil = case.fact, tokenizer.token_string(case.said).strip() or "(blank)"
    sides, about = (clean.text, corrupted.text), (fact.subject, fact.relation)
    spans, span = Question(fact, wording).spans, subject_at(clean, fact, wording)
    text = PromptPair(*sides, fact.object, foil, *about, spans=spans)
    made_by = tokenizer.fingerprint
    return TokenPair(text, clean, corrupted, case.answer, case.said, span, made_by)


def _by_wording(
    model: Model,
    fact: Fact,
    asked: Mapping[str, Answer],
    relation: Relation,
    true_of: Mapping[str, set[str]],
    generator: random.Random,
) -> Case | None:
    wrong = generator.choice([t for t, answer in asked.items() if not answer.known])
    known = sorted((t for t, a in asked.items() if a.known), key=lambda t: -asked[t].probability)
    answer = asked[known[0]].answer
    known = [each for each in known if asked[each].answer == answer]
    fact = replace(fact, object=answer, aliases=())
    texts = [fill(each, fact.subject) for each in (wrong, *known)]
    first = [_first(model.tokenizer, text, fact.object) for text in texts]
    usable = [t for t, token in zip(known, first[1:], strict=True) if token == first[0]]
    if first[0] is None or not usable:
        return None
    prompts = [model.tokenizer.encode(fill(each, fact.subject)) for each in (wrong, *usable[:2])]
    (said,) = says(model, prompts[:1], 1)
    return Case(
        fact=fact,
        wrong=prompts[0],
        right=prompts[1],
        again=prompts[2] if len(prompts) > 2 else None,
        answer=first[0],
        said=said,
        kind=kind_of(model.tokenizer, fact, prompts[0], wrong, said, relation, true_of),
        wordings=(wrong, usable[0], usable[1] if len(usable) > 1 else None),
        by_demonstrations=False,
    )


@dataclass(frozen=True)
class _Shown:
    """A fact in a wording, alone and after other facts in the same words."""

    fact: Fact
    wording: str
    alone: Prompt
    after: Prompt
    answer: int


def _shown(
    tokenizer: Tokenizer,
    fact: Fact,
    asked: Mapping[str, Answer],
    relation: Relation,
    n: int,
    generator: random.Random,
) -> _Shown | None:
    """The fact after `n` others; None where there are too few, or its answer begins otherwise."""
    wording = generator.choice(list(asked))
    pool = [
        each
        for each in relation.facts
        if all(can_demonstrate(each, fact.subject, text) for text in fact.accepted)
    ]
    if len(pool) < n:
        return None
    fact = replace(fact, object=asked[wording].answer, aliases=())
    text = with_demonstrations(wording, fact.subject, generator.sample(pool, n))
    try:
        alone, after = tokenizer.encode(fill(wording, fact.subject)), tokenizer.encode(text)
        answer = tokenizer.first_token(alone.text, fact.object)
    except PromptError:
        return None
    if tokenizer.first_token(text, fact.object) != answer:
        return None
    return _Shown(fact, wording, alone, after, answer)


def _by_demonstrations(
    model: Model,
    asked: Sequence[_Shown],
    relation: Relation,
    true_of: Mapping[str, set[str]],
    batch_size: int,
) -> list[Case]:
    """The facts that are answered right after their demonstrations."""
    said = says(model, [each.after for each in asked], batch_size)
    right = [each for each, token in zip(asked, said, strict=True) if token == each.answer]
    found = []
    for each, wrong in zip(right, says(model, [x.alone for x in right], batch_size), strict=True):
        alone = (each.fact, each.alone, each.wording)
        kind = kind_of(model.tokenizer, *alone, wrong, relation, true_of)
        wordings = (each.wording, each.wording, None)
        found.append(
            Case(each.fact, each.alone, each.after, None, each.answer, wrong, kind, wordings, True)
        )
    return found


@torch.no_grad()
def says(model: Model, prompts: Sequence[Prompt], batch_size: int) -> list[int]:
    """The likeliest next token of each prompt."""
    said = [0] * len(prompts)
    for rows, tokens in batches_of(model, prompts, batch_size):
        for row, best in zip(rows, model.last_logits(tokens).argmax(-1).tolist(), strict=True):
            said[row] = best
    return said


def _first(tokenizer: Tokenizer, prompt: str, answer: str) -> int | None:
    try:
        return tokenizer.first_token(prompt, answer)
    except PromptError:
        return None
