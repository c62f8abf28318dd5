"""Who had a part in finding a circuit: subjects and prompts of its pairs, clean and corrupted.

The facts that stood answered before every question (`--shots`) had one too. What a circuit does on
those who found it says little of others. A circuit that this project found on prompt pairs holds
them; of one from elsewhere, or made of others, it is not known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx

from circuits.base.errors import FileFormatError
from circuits.facts.facts import Fact, Relation
from circuits.facts.pairs import PromptPair, TokenPair, pair_from_record
from circuits.graph.circuit import Circuit
from circuits.graph.noise import corrupted_subject

FOUND_IT = "pairs that found it"
SUBJECTS_FOUND_IT = "subjects that found it"
OTHERS, OTHER_PAIRS = "other subjects", "other pairs"
ALL, UNKNOWN = "all pairs", "value"
MAYBE_FOUND_IT = "pairs that may have found it"


@dataclass(frozen=True)
class Finders:
    """What had a part in finding a circuit: `names` are subjects and prompts.

    `prompts` has both sides of each pair; `named` says whether every pair named its subject.
    """

    names: frozenset[str]
    prompts: frozenset[tuple[str, str]]
    named: bool = True

    @classmethod
    def of(cls, circuit: Circuit) -> Finders | None:
        """Those of a circuit that says which pairs found it; else None.

        Of the facts before the questions the subjects count, as of those that were asked.
        """
        stored = circuit.evidence.get("pairs")
        if not isinstance(stored, Sequence) or not stored:
            return None
        try:
            records = [dict(each) for each in stored if isinstance(each, Mapping)]
            pairs = [pair_from_record(each, "the circuit", n) for n, each in enumerate(records, 1)]
            shown = _demonstrated(circuit)
        except (FileFormatError, KeyError, TypeError, ValueError):
            return None
        return cls._of_pairs(pairs, shown)

    @classmethod
    def among(
        cls, circuits: Sequence[Circuit], pairs: Sequence[TokenPair], fingerprint: str
    ) -> Finders | None:
        """Those of all the circuits; None where one does not say who found it.

        One that names no pairs but their hash, as a file of EAP-IG's form does, says so where that
        is the fingerprint of these pairs.
        """
        found = []
        for circuit in circuits:
            finders = cls.of(circuit)
            if finders is None and circuit.provenance.get("pairs_sha256") == fingerprint:
                finders = cls._of_pairs([pair.text for pair in pairs])
            if finders is None:
                return None
            found.append(finders)
        empty: frozenset[Any] = frozenset()
        return cls(
            empty.union(*(each.names for each in found)),
            empty.union(*(each.prompts for each in found)),
            all(each.named for each in found),
        )

    @classmethod
    def _of_pairs(cls, pairs: Sequence[PromptPair], shown: Collection[str] = ()) -> Finders:
        names = frozenset(shown).union(*map(_marks, pairs))
        prompts = frozenset((pair.clean, pair.corrupted) for pair in pairs)
        return cls(names, prompts, _all_named(pairs))

    def had_part(self, pair: PromptPair) -> bool:
        """Whether any side of the pair asks about one of them, or is one of their prompts."""
        return not self.names.isdisjoint(_marks(pair))

    def split(self, pairs: Sequence[TokenPair]) -> tuple[list[int], list[int]]:
        """Places of the pairs that had a part, and of the others."""
        seen = [n for n, pair in enumerate(pairs) if self.had_part(pair.text)]
        known = set(seen)
        return seen, [n for n in range(len(pairs)) if n not in known]

    def side(self, pairs: Sequence[TokenPair]) -> str:
        """What to call these pairs, which are all of one side or mixed."""
        seen, others = self.split(pairs)
        if seen and others:
            return ALL
        if others:
            return self.beside(pairs)
        same = all((pair.text.clean, pair.text.corrupted) in self.prompts for pair in pairs)
        return FOUND_IT if same else SUBJECTS_FOUND_IT

    def beside(self, others: Sequence[TokenPair]) -> str:
        """What to call pairs that had no part: other subjects only where all are named."""
        named = self.named and _all_named([pair.text for pair in others])
        return OTHERS if named else OTHER_PAIRS


def _demonstrated(circuit: Circuit) -> set[str]:
    """Subjects of the answered facts before the questions; errors where a file says nonsense."""
    facts = circuit.provenance.get("facts")
    asked = facts.get("asked_as") if isinstance(facts, Mapping) else None
    shown = asked.get("demonstrations", {}) if isinstance(asked, Mapping) else {}
    return {str(subject).strip() for each in dict(shown).values() for subject, _ in each}


def subjects_of(pair: PromptPair) -> set[str]:
    """The subjects of both prompts; of a pair that names none, both prompts."""
    subject = pair.named_subject
    if subject is None:
        return {pair.clean, pair.corrupted}
    return {subject, corrupted_subject(pair)}


def _prompts(pair: PromptPair) -> set[str]:
    return {pair.clean, pair.corrupted}


def _marks(pair: PromptPair) -> set[str]:
    """Subjects and prompts: pairs that share one of them are not apart."""
    return subjects_of(pair) | _prompts(pair)


def _all_named(pairs: Sequence[PromptPair]) -> bool:
    return all(pair.named_subject is not None for pair in pairs)


def side_beside(found: Sequence[TokenPair], others: Sequence[TokenPair]) -> str:
    """What to call pairs kept apart from those that found a circuit.

    Other subjects only where every pair names its own, and no side of any asks about one of the
    finders.
    """
    finders = Finders._of_pairs([pair.text for pair in found])
    apart = not any(finders.had_part(pair.text) for pair in others)
    return finders.beside(others) if apart else OTHER_PAIRS


def held_apart(pairs: Sequence[TokenPair], count: int, seed: int) -> tuple[list[int], bool]:
    """Places of about `count` pairs, and whether none of their prompts is one of the other pairs.

    They are apart by subjects and prompts, clean and corrupted; where every pair hangs together
    with every other by these, by prompts alone. Where even these link all, `count` pairs are drawn.
    """
    for linked in (_marks, _prompts):
        groups = _linked(pairs, linked)
        if len(groups) < 2:
            continue
        random.Random(seed).shuffle(groups)
        held: list[int] = []
        for places in groups:
            if len(held) + len(places) <= count:
                held += places
        if not held:
            held = min(groups, key=len)
        return sorted(held), True
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    return sorted(order[:count]), False


def _linked(pairs: Sequence[TokenPair], marks: Callable[[PromptPair], set[str]]) -> list[list[int]]:
    """Places of the pairs that hang together by what they share, a list each, in order."""
    shared = nx.Graph()
    for place, pair in enumerate(pairs):
        shared.add_edges_from((place, mark) for mark in marks(pair.text))
    groups = nx.connected_components(shared)
    return sorted(sorted(each for each in group if isinstance(each, int)) for group in groups)


def without(relations: Sequence[Relation], names: Collection[str]) -> list[Relation]:
    """The relations less the facts about these subjects."""
    left_out = set(names)

    def kept(relation: Relation) -> Iterator[Fact]:
        return (fact for fact in relation.facts if fact.subject.strip() not in left_out)

    return [replace(each, facts=tuple(kept(each))) for each in relations]
