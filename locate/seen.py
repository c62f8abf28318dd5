"""Who had a part in finding a circuit: the subjects of its pairs, clean and corrupted.

The facts that stood answered before every question (`--shots`) had one too. What a circuit does on
those who found it says little of others. A circuit that this project found on prompt pairs holds
them; of one from elsewhere, or made of others, it is not known.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Finders:
    """Names that had a part in finding a circuit: subjects, or prompts of pairs without one."""

    names: frozenset[str]
    prompts: frozenset[tuple[str, str]]

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
        )

    @classmethod
    def _of_pairs(cls, pairs: Sequence[PromptPair], shown: Collection[str] = ()) -> Finders:
        names = frozenset(shown).union(*map(subjects_of, pairs))
        return cls(names, frozenset((pair.clean, pair.corrupted) for pair in pairs))

    def had_part(self, pair: PromptPair) -> bool:
        """Whether any side of the pair asks about one of them."""
        return not self.names.isdisjoint(subjects_of(pair))

    def split(self, pairs: Sequence[TokenPair]) -> tuple[list[int], list[int]]:
        """Places of the pairs with such a subject, and of those without."""
        seen = [n for n, pair in enumerate(pairs) if self.had_part(pair.text)]
        known = set(seen)
        return seen, [n for n in range(len(pairs)) if n not in known]

    def side(self, pairs: Sequence[TokenPair]) -> str:
        """What to call these pairs, which are all of one side or mixed."""
        seen, others = self.split(pairs)
        if seen and others:
            return ALL
        if others:
            return OTHER_PAIRS if pairs[0].subject is None else OTHERS
        same = all((pair.text.clean, pair.text.corrupted) in self.prompts for pair in pairs)
        return FOUND_IT if same else SUBJECTS_FOUND_IT


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


def side_beside(found: Sequence[TokenPair], others: Sequence[TokenPair]) -> str:
    """What to call pairs kept apart from those that found a circuit.

    Other subjects only where no side of any asks about a subject of the finders.
    """
    names = {name for pair in found for name in subjects_of(pair.text)}
    apart = all(names.isdisjoint(subjects_of(pair.text)) for pair in others)
    return OTHERS if apart and others[0].subject is not None else OTHER_PAIRS


def apart_by_subject(pairs: Sequence[TokenPair], count: int, seed: int) -> list[int] | None:
    """Places of about `count` pairs whose subjects, clean and corrupted, no other pair asks about.

    None where every pair hangs together with every other by its subjects, or one names none.
    """
    if any(pair.subject is None for pair in pairs):
        return None
    asked = nx.Graph()
    for place, pair in enumerate(pairs):
        asked.add_edges_from((place, name) for name in subjects_of(pair.text))
    groups = [
        sorted(each for each in group if isinstance(each, int))
        for group in nx.connected_components(asked)
    ]
    if len(groups) < 2:
        return None
    groups.sort()
    random.Random(seed).shuffle(groups)
    held: list[int] = []
    for places in groups:
        if len(held) + len(places) <= count:
            held += places
    if not held:
        held = min(groups, key=len)
    return sorted(held)


def without(relations: Sequence[Relation], names: Collection[str]) -> list[Relation]:
    """The relations less the facts about these subjects."""
    left_out = set(names)

    def kept(relation: Relation) -> Iterator[Fact]:
        return (fact for fact in relation.facts if fact.subject.strip() not in left_out)

    return [replace(each, facts=tuple(kept(each))) for each in relations]
