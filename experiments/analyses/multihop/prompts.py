"""Two-hop questions: a relation asked of another relation's object, in three forms.

- NESTED: in one question, so that the bridge is never named ("The capital of the country where the
  landmark X stands is").
- FOLLOW: the first hop is stated, and the second asked by a pronoun ("X is in France. Its capital
  is"): the bridge stands in the prompt, and must be picked up.
- WRITTEN: the first hop is stated, and the second asked of the bridge by name.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from circuits.base.errors import PromptError
from circuits.facts.demonstrations import answered
from circuits.facts.facts import Relation, fill
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair
from circuits.facts.wordings import takes_phrases, wordings
from circuits.model.model import Model


class Form(StrEnum):
    """How a two-hop question is asked; the module says more."""

    NESTED = "nested"
    FOLLOW = "follow"
    WRITTEN = "written"


@dataclass(frozen=True)
class Chain:
    """Two relations, the second asked about objects of the first."""

    first: Relation
    second: Relation

    @property
    def name(self) -> str:
        """`first > second`."""
        return f"{self.first.name} > {self.second.name}"


@dataclass(frozen=True)
class TwoHops:
    """A subject, the bridge and the answer."""

    subject: str
    bridge: str
    answer: str


def chains_of(relations: Mapping[str, Relation]) -> Iterator[Chain]:
    """All chains that can be put into one question and whose second subjects are known objects."""
    for name, hop in wordings().phrases.items():
        if name not in relations:
            continue
        objects = set(relations[name].objects())
        for second in relations.values():
            if second.kind == hop.kind and objects & set(second.subjects()) and second.templates:
                yield Chain(relations[name], second)


def two_hops(chain: Chain, known: Callable[[Relation, str], bool]) -> list[TwoHops]:
    """Every pair of facts that meet in a bridge, where both are known."""
    seconds = {subject: chain.second.objects_of(subject)[0] for subject in chain.second.subjects()}
    return [
        TwoHops(fact.subject, fact.object, seconds[fact.object])
        for fact in chain.first.facts
        if fact.object in seconds
        and known(chain.first, fact.subject)
        and known(chain.second, fact.object)
    ]


def wording(chain: Chain, form: Form, hops: TwoHops) -> str | None:
    """The question as text; None where the second relation has no wording for this form."""
    second = chain.second
    if form == Form.NESTED:
        fitting = [each for each in second.templates if takes_phrases(each)]
        template = (fitting or list(second.templates))[0]
        return fill(template, fill(wordings().phrases[chain.first.name].phrase, hops.subject))
    stated = f"{fill(chain.first.templates[0], hops.subject)} {hops.bridge}. "
    if form == Form.WRITTEN:
        return stated + fill(second.templates[0], hops.bridge)
    return stated + second.follow[0] if second.follow else None


@dataclass(frozen=True)
class Asking:
    """How facts are put into words: `wording` asks one, and `shown` stand answered before it."""

    wording: Callable[[TwoHops], str | None]
    shown: tuple[TwoHops, ...] = ()

    @property
    def before(self) -> str | None:
        """What stands before every question; None where one of the shown has no wording."""
        asked = [self.wording(each) for each in self.shown]
        if None in asked:
            return None
        told = zip(asked, self.shown, strict=True)
        return "".join(answered(text, each.answer) for text, each in told if text is not None)


def shown_of(
    facts: Sequence[TwoHops], asked: Sequence[TwoHops], shots: int, seed: int
) -> tuple[tuple[TwoHops, ...], list[TwoHops]]:
    """So many of the facts to stand answered before the others, and what is asked then.

    No two of them have one bridge, nor one answer where that can be. They are of those bridges
    that the fewest of the facts to be asked have, for none of these shares a bridge or a subject
    with what is shown. PromptError where there are too few.
    """
    if not shots:
        return (), list(asked)
    generator = random.Random(f"{seed}/shown")
    order = list(facts)
    generator.shuffle(order)
    lost = Counter(each.bridge for each in asked)
    order.sort(key=lambda each: (lost[each.bridge], each in asked))
    by_bridge: dict[str, TwoHops] = {}
    for each in order:
        by_bridge.setdefault(each.bridge, each)
    by_answer: dict[str, TwoHops] = {}
    for each in by_bridge.values():
        by_answer.setdefault(each.answer, each)
    others = [each for each in by_bridge.values() if by_answer[each.answer] is not each]
    shown = tuple([*by_answer.values(), *others][:shots])
    names = {name for each in shown for name in (each.subject, each.bridge)}
    rest = [each for each in asked if names.isdisjoint((each.subject, each.bridge))]
    if len(shown) < shots or not rest:
        raise PromptError(f"too few facts to show {shots} answered ones and ask about others")
    return shown, rest


def halves_of(facts: Sequence[TwoHops], seed: int) -> tuple[list[TwoHops], list[TwoHops]]:
    """Facts that find circuits, and about as many that test them; no bridge is in both."""
    generator = random.Random(seed)
    by_bridge: dict[str, list[TwoHops]] = {}
    for hops in facts:
        by_bridge.setdefault(hops.bridge, []).append(hops)
    groups = list(by_bridge.values())
    generator.shuffle(groups)
    halves: tuple[list[TwoHops], list[TwoHops]] = ([], [])
    for group in sorted(groups, key=len, reverse=True):
        min(halves, key=len).extend(group)
    for half in halves:
        generator.shuffle(half)
    return halves


def pairs_of(model: Model, facts: Sequence[TwoHops], asking: Asking, seed: int) -> list[TokenPair]:
    """One pair a fact: another subject of as many tokens, whose answer begins otherwise.

    Facts without such a partner, and those that cannot be asked, are left out.
    """
    generator = random.Random(seed)
    made = []
    for hops in facts:
        others = [o for o in facts if o.subject != hops.subject and o.bridge != hops.bridge]
        generator.shuffle(others)
        pair = next(
            (found for other in others if (found := _pair(model, hops, other, asking))), None
        )
        made += [pair] if pair else []
    return made


def reversed_facts(relation: Relation) -> list[TwoHops]:
    """Object to subject, for facts whose object is of no other subject; the bridge is the object.

    Subject and answer of the result are the fact's object and subject.
    """
    objects = [fact.object for fact in relation.facts]
    return [
        TwoHops(fact.object, fact.object, fact.subject)
        for fact in relation.facts
        if objects.count(fact.object) == 1
    ]


def reversed_wording(relation: Relation, hops: TwoHops) -> str | None:
    """The question from the object back to the subject; None where the relation has none."""
    template = wordings().reversed.get(relation.name)
    return None if template is None else fill(template, hops.subject)


def _pair(model: Model, hops: TwoHops, other: TwoHops, asking: Asking) -> TokenPair | None:
    before, clean, corrupted = asking.before, asking.wording(hops), asking.wording(other)
    if before is None or clean is None or corrupted is None:
        return None
    sides = before + clean, before + corrupted
    try:
        return encode_pair(
            model.tokenizer,
            PromptPair(*sides, hops.answer, other.answer, hops.subject, start=len(before)),
        )
    except PromptError:
        return None
