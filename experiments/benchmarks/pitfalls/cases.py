"""Cases of ConflictEdit and RoundEdit (Li et al. 2024) and their readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from circuits.base.errors import PromptError
from circuits.edits.edit import EditRequest
from experiments.benchmarks.base import Cases
from experiments.benchmarks.pitfalls.reading import (
    Paraphrases,
    Question,
    Record,
    changed_object,
    label_at,
    list_at,
    mapping_at,
    read_cases,
    relation_of,
)

FIRST, SECOND, IMPLIED, TIED = "first", "second", "implied", "tied"
"""Facts of a case of ConflictEdit: what each edit writes, what the second one makes of the first
one's question, and the fact that ties the two."""
NEW, OLD, OTHER = "new", "old", "other"
"""Objects of a case of RoundEdit: the one on the way, the one returned to, other true ones."""


class Conflict(StrEnum):
    """How two edits conflict.

    - coverage: both answer one question, (s, r, o1) then (s, r, o2);
    - reverse: r' is r read backwards: (s, r, o1) then (o1, r', o2), which implies (o2, r, o1);
    - composite: a tied fact (s, q, m) makes (m, r, o1) imply (s, r', o1); then (s, r', o2), which
      implies (m, r, o2).
    """

    COVERAGE = "coverage"
    REVERSE = "reverse"
    COMPOSITE = "composite"


@dataclass(frozen=True)
class ConflictCase:
    """Two edits in conflict. `facts` are asked after each edit, `truths` in the unedited model."""

    conflict: Conflict
    edits: tuple[EditRequest, EditRequest]
    facts: Mapping[str, Question]
    truths: tuple[Question, ...]


@dataclass(frozen=True)
class RoundCase:
    """An edit o → o' and the way back. `split` is the file's name: `easy` or `hard`.

    `facts` has o' as `new`, o as `old`, and the further true objects as `other 1`, ...
    """

    split: str
    there: EditRequest
    back: EditRequest
    facts: Mapping[str, Question]

    @property
    def truths(self) -> list[Question]:
        """Every true object, o first."""
        return [asked for name, asked in self.facts.items() if name != NEW]

    @property
    def all_back(self) -> tuple[EditRequest, ...]:
        """The second edit of the multi-label variant: every true object at once."""
        return tuple(each.request(self.there.target, self.there.relation) for each in self.truths)


def read_conflict(path: Path) -> Cases:
    """The cases of ConflictEdit's file or folder, with the paraphrases that lie beside them."""
    return read_cases(path, "edits", "ConflictEdit", _conflict_case)


def read_round(path: Path) -> Cases:
    """The cases of RoundEdit's file or folder, with the paraphrases that lie beside them."""
    return read_cases(path, "edit", "RoundEdit", _round_case)


def _conflict_case(record: Record, paraphrases: Paraphrases, file: Path) -> ConflictCase:
    conflict = record.get("type")
    if conflict not in list(Conflict):
        raise PromptError(f"{conflict!r:.40} is no type of conflict: {', '.join(Conflict)}")
    conflict = Conflict(conflict)
    edits = list_at(record, "edits", 2)
    if len(edits) != 2:
        raise PromptError(f"has {len(edits)} edits, not two")
    requests, facts = [], {}
    for number, name in enumerate((FIRST, SECOND)):
        place, edit = f"edit {number + 1}", mapping_at(edits, "edits", number)
        relation = relation_of(edit, place, paraphrases)
        old, new = label_at(edit, place, "object"), label_at(edit, place, "new_object")
        changed_object(old, new, place)
        facts[name] = relation.asked(label_at(edit, place, "subject"), new)
        requests.append(facts[name].request(old, relation.name))
    given = list_at(record, "triples", 1)
    triples = [
        _truth(mapping_at(given, "triples", n), f"triple {n + 1}", paraphrases)
        for n in range(len(given))
    ]
    first, second = requests
    asked = relation_of(mapping_at(edits, "edits", 0), "edit 1", paraphrases).asked
    if conflict == Conflict.COVERAGE:
        if facts[FIRST].prompts != facts[SECOND].prompts or first.subject != second.subject:
            raise PromptError("a coverage case asks one question twice, this one asks two")
        changed_object(first.target, second.target, "edit 2")
    elif conflict == Conflict.REVERSE:
        if second.subject != first.target:
            raise PromptError("the second edit's subject is not the first one's new object")
        facts[IMPLIED] = asked(second.target, first.target)
    else:
        facts[TIED] = _tied(record, triples)
        if (facts[TIED].object, facts[TIED].subject) != (first.subject, second.subject):
            raise PromptError(
                "the prerequisite does not tie the second edit's subject to the first's"
            )
        facts[IMPLIED] = asked(first.subject, second.target)
    return ConflictCase(conflict, (first, second), facts, tuple(triples))


def _tied(record: Record, triples: list[Question]) -> Question:
    """The fact that a composite case rests on: the triple that `prerequisites` counts, from 0."""
    (place, *_) = list_at(record, "prerequisites", 1)
    if not isinstance(place, int) or not 0 <= place < len(triples):
        raise PromptError(f"the prerequisite {place!r:.40} is the place of no triple")
    return triples[place]


def _truth(triple: Record, place: str, paraphrases: Paraphrases) -> Question:
    relation = relation_of(triple, place, paraphrases)
    return relation.asked(label_at(triple, place, "subject"), label_at(triple, place, "object"))


def _round_case(record: Record, paraphrases: Paraphrases, file: Path) -> RoundCase:
    edit = mapping_at(record, "the row", "edit")
    relation = relation_of(edit, "edit", paraphrases)
    subject = label_at(edit, "edit", "subject")
    old, new = label_at(edit, "edit", "object"), label_at(edit, "edit", "new_object")
    changed_object(old, new, "edit")
    listed = enumerate(list_at(record, "true_objects", 2), start=1)
    true = [label_at({"object": each}, f"true object {n}", "object") for n, each in listed]
    if old not in true or new in true:
        raise PromptError("the true objects must hold the old object and not the new one")
    others = dict.fromkeys(each for each in true if each != old)
    if not others:
        raise PromptError("has no true object but the edited one")
    facts = {NEW: relation.asked(subject, new), OLD: relation.asked(subject, old)}
    facts |= {f"{OTHER} {n}": relation.asked(subject, each) for n, each in enumerate(others, 1)}
    there, back = facts[NEW].request(old, relation.name), facts[OLD].request(new, relation.name)
    return RoundCase(file.stem, there, back, facts)
