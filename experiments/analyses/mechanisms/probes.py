"""Probes of what a model can do with what it knows, built from facts alone.

Wang et al. 2024 ("Knowledge Mechanisms in Large Language Models") tell apart memorisation,
comprehension and application, and creation. Every probe here is a set of questions about a *base*
relation, whose plain questions are the memorisation it is compared with:

- cloze: the base relation's first training wording; exact: the same, every token of the object;
- paraphrase: a wording that models of this project are not trained on; reversal: from the object
  to the subject; negation: what the object is *not*;
- two hops: the second relation of a chain asked about the first one's unnamed object; comparison:
  which of two subjects has an object;
- unseen combination: the second relation of a chain asked directly of the first one's subject, as
  no fact ever does.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from circuits.base.errors import PromptError
from circuits.facts.demonstrations import shown_before
from circuits.facts.facts import Fact, Relation
from circuits.facts.pairs import PromptPair
from circuits.facts.questions import demonstrations_of
from circuits.facts.wordings import negated, wordings


class Probe(StrEnum):
    """What is asked of the model."""

    CLOZE = "cloze"
    EXACT = "exact"
    PARAPHRASE = "paraphrase"
    REVERSAL = "reversal"
    NEGATION = "negation"
    TWO_HOP = "two hops"
    COMPARISON = "comparison"
    UNSEEN = "unseen combination"

    @property
    def mechanism(self) -> str:
        """The mechanism that the probe stands for."""
        return {
            Probe.CLOZE: "memorisation",
            Probe.EXACT: "memorisation",
            Probe.PARAPHRASE: "comprehension",
            Probe.REVERSAL: "comprehension",
            Probe.NEGATION: "comprehension",
            Probe.TWO_HOP: "application",
            Probe.COMPARISON: "application",
            Probe.UNSEEN: "creation",
        }[self]


@dataclass(frozen=True)
class ProbeSet:
    """All questions of one probe about one base relation.

    `relation` holds them as facts in one wording, which is all that other modules need in order to
    ask and pair them; `candidates` are the answers that a choice is among. A comparison comes as
    ready-made `pairs`, each with its own two `alternatives`. `before` stands before each question,
    and is in the texts of `pairs` already.
    """

    probe: Probe
    base: str
    relation: Relation
    candidates: tuple[str, ...]
    pairs: tuple[PromptPair, ...] = ()
    alternatives: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    before: str = ""

    @property
    def template(self) -> str:
        """The wording."""
        return self.relation.templates[0]


def bases(probe: Probe, relations: Mapping[str, Relation], chosen: Sequence[str]) -> list[str]:
    """What a probe can be asked about: relations, or names of chains."""
    match probe:
        case Probe.REVERSAL:
            return [name for name in wordings().reversed if name in relations]
        case Probe.TWO_HOP | Probe.UNSEEN:
            return [c.name for c in wordings().chains if {c.first, c.second} <= set(relations)]
        case Probe.COMPARISON:
            return [name for name in wordings().compared if name in relations]
        case Probe.PARAPHRASE:
            return [name for name in chosen if relations[name].held_out]
        case Probe.NEGATION:
            return [name for name in chosen if _negatable(relations[name])]
    return list(chosen)


def probe_set(
    probe: Probe, name: str, relations: Mapping[str, Relation], seed: int = 0, shots: int = 0
) -> ProbeSet:
    """The questions of a probe about a relation (or about the chain of that name).

    So many of them (`shots`) stand answered before the others. PromptError for too few.
    """
    return _demonstrated(_bare(probe, name, relations, seed), shots, seed)


def _bare(probe: Probe, name: str, relations: Mapping[str, Relation], seed: int) -> ProbeSet:
    """The questions without demonstrations."""
    if probe in (Probe.TWO_HOP, Probe.UNSEEN):
        return _chained(probe, name, relations)
    relation = relations[name]
    match probe:
        case Probe.REVERSAL:
            return _reversed(relation)
        case Probe.COMPARISON:
            return _compared(relation, seed)
        case Probe.PARAPHRASE:
            template = relation.held_out[0]
        case Probe.NEGATION:
            template = _negatable(relation)[0]
        case _:
            template = relation.templates[0]
    return ProbeSet(probe, name, _asked(relation, relation.facts, template), relation.objects())


def _demonstrated(asked: ProbeSet, shots: int, seed: int) -> ProbeSet:
    """With some questions answered before the others, which are about other subjects.

    A negation is answered by another object of the relation. What shares a shown answer along a
    chain shares the bridge, and is not asked.
    """
    if not shots:
        return asked
    few = f"{asked.base} has too few facts to show {shots} answered and ask about others"
    if asked.pairs:
        if len(asked.pairs) < shots + 2:
            raise PromptError(few)
        shown, rest = asked.pairs[:shots], asked.pairs[shots:]
        before = "".join(f"{pair.clean} {pair.answer}. " for pair in shown)
        told = {
            pair.clean: replace(
                pair,
                clean=before + pair.clean,
                corrupted=before + pair.corrupted,
                start=len(before),
            )
            for pair in rest
        }
        named = {told[text].clean: asked.alternatives[text] for text in told}
        return replace(asked, pairs=tuple(told.values()), alternatives=named, before=before)
    facts = demonstrations_of(asked.relation, shots, seed)
    if facts is None:
        raise PromptError(few)
    subjects = {fact.subject for fact in facts}
    chained = asked.probe in (Probe.TWO_HOP, Probe.UNSEEN)
    objects = {fact.object for fact in facts} if chained else set()
    kept = [
        fact
        for fact in asked.relation.facts
        if fact.subject not in subjects and fact.object not in objects
    ]
    if not kept:
        raise PromptError(few)
    if asked.probe == Probe.NEGATION:
        facts = tuple(_other(fact, asked.candidates, seed) for fact in facts)
    relation = replace(asked.relation, facts=tuple(kept))
    return replace(asked, relation=relation, before=shown_before(asked.template, facts))


def _other(fact: Fact, objects: Sequence[str], seed: int) -> Fact:
    """The fact with another object, drawn by the seed; itself where there is none."""
    others = [each for each in objects if each != fact.object] or [fact.object]
    return replace(fact, object=random.Random(f"{seed}/{fact.subject}").choice(others))


def _asked(relation: Relation, facts: Sequence[Fact], template: str) -> Relation:
    """The facts in one wording, as a relation of its own."""
    own = tuple(
        Fact(relation.name, fact.subject, fact.object, aliases=fact.aliases) for fact in facts
    )
    return Relation(relation.name, relation.category, relation.kind, own, (template,))


def _negatable(relation: Relation) -> list[str]:
    return [text for each in relation.templates if (text := negated(each)) is not None][:1]


def _reversed(relation: Relation) -> ProbeSet:
    """Questions from the object to the subject, where an object belongs to one subject only."""
    owners: dict[str, list[str]] = defaultdict(list)
    for fact in relation.facts:
        owners[fact.object].append(fact.subject)
    facts = [
        Fact(relation.name, value, subjects[0])
        for value, subjects in owners.items()
        if len(subjects) == 1 and value != subjects[0]
    ]
    asked = _asked(relation, facts, wordings().reversed[relation.name])
    return ProbeSet(Probe.REVERSAL, relation.name, asked, relation.subjects())


def _chained(probe: Probe, name: str, relations: Mapping[str, Relation]) -> ProbeSet:
    """Facts of a chain: the first relation's subject, the second relation's object."""
    chain = next(each for each in wordings().chains if each.name == name)
    first, second = relations[chain.first], relations[chain.second]
    seconds = {fact.subject: fact for fact in second.facts}
    facts = [
        replace(seconds[fact.object], subject=fact.subject)
        for fact in first.facts
        if fact.object in seconds and fact.subject not in seconds
    ]
    template = chain.nested if probe == Probe.TWO_HOP else second.templates[0]
    return ProbeSet(probe, second.name, _asked(second, facts, template), second.objects())


def _compared(relation: Relation, seed: int) -> ProbeSet:
    """Which of two subjects has an object; both orders, and the corrupted prompt names the other's.

    Clean and corrupted prompt differ in the object only, so that the right answer swaps.
    """
    template = wordings().compared[relation.name]
    generator = random.Random(f"{seed}/{relation.name}/comparison")
    pairs: list[PromptPair] = []
    alternatives: dict[str, tuple[str, str]] = {}
    for one, other in _different(relation, generator):
        left, right = (one, other) if generator.random() < 0.5 else (other, one)
        texts = [
            template.replace("{object}", each.object).replace("{}", left.subject, 1)
            for each in (one, other)
        ]
        clean, corrupted = (text.replace("{}", right.subject, 1) for text in texts)
        # No subject is named: with two of them in the prompt there is no single subject span.
        pairs.append(PromptPair(clean, corrupted, one.subject, other.subject, None, relation.name))
        alternatives[clean] = (one.subject, other.subject)
    asked = Relation(relation.name, relation.category, relation.kind, relation.facts, (template,))
    return ProbeSet(
        Probe.COMPARISON, relation.name, asked, relation.subjects(), tuple(pairs), alternatives
    )


def _different(relation: Relation, generator: random.Random) -> Iterator[tuple[Fact, Fact]]:
    """Facts in random pairs with different objects, each fact once at most."""
    facts = list(relation.facts)
    generator.shuffle(facts)
    while facts:
        one = facts.pop()
        place = next(
            (
                i
                for i, other in enumerate(facts)
                if other.object != one.object and other.subject != one.subject
            ),
            None,
        )
        if place is not None:
            yield one, facts.pop(place)
