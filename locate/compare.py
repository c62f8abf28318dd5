"""What became of a circuit: two stored ones side by side, or one model before and after an edit.

1. *Ask*: pairs about the edited facts (the old object against the new one), or about a relation.
2. *Find* both circuits on them, and hold them against each other (`locate.changes.rewiring`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.pairs import edit_pairs, in_other_wordings
from circuits.edits.provenance import bos_of, in_words
from circuits.edits.provenance import requests_of as records_of
from circuits.edits.requests import slotted
from circuits.facts.pairs import TokenPair, encode_pairs
from circuits.graph.circuit import Circuit
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.changes.rewired import ANY_OBJECTS, OBJECTS, Rewiring
from locate.changes.rewiring import rewiring
from locate.examples import Examples
from locate.heads.roles import roles_if_any
from locate.search import Search

PARTNERS = 8
"""Corrupted subjects for each edited fact."""
N_PAIRS = 32
"""Pairs of a relation."""
ELSEWHERE = 32
"""Prompts in other wordings, at most; several edits have many."""
DRAWS = 20
"""Random edge sets in the causal check."""


@dataclass(frozen=True)
class BothSides:
    """The pairs that a comparison is made on: before, after, and what they ask about.

    `elsewhere` asks for the same in other words; it finds no circuit and only tests. `objects` says
    what answer and foil are: of the edited facts the old and the new object.
    """

    name: str
    before: tuple[TokenPair, ...]
    after: tuple[TokenPair, ...]
    notes: tuple[str, ...] = ()
    elsewhere: tuple[TokenPair, ...] = ()
    objects: tuple[str, str] = OBJECTS


def requests_of(delta: WeightDelta) -> list[EditRequest]:
    """The requests that a delta, or each part of a sum of deltas, answers."""
    return list(dict.fromkeys(map(_request, records_of(delta.provenance))))


def about_the_edit(
    model: Model, delta: WeightDelta, partners: int = PARTNERS, seed: int = 0
) -> BothSides:
    """Pairs that ask for the edited facts, with the edit's BOS: the old object against the new."""
    model = model.with_bos(bos_of(delta.provenance))
    requests = requests_of(delta)
    known = [each for each in requests if each.ground_truth is not None and each.relation]
    if not known:
        raise OptionError(
            "the edit names no request with a relation of the atlas and a true object: name the "
            "relation to compare on"
        )
    pairs = edit_pairs(model.tokenizer, known, partners=partners, seed=seed)
    before, after = pairs.encode(model.tokenizer)
    notes = [f"left out: {request.text!r}: {reason}" for request, reason in pairs.skipped]
    if len(known) < len(requests):
        notes.append(f"{len(requests) - len(known)} requests without relation left out")
    name = in_words([vars(each) for each in known])
    skipped = {request for request, _ in pairs.skipped}
    asked = [each for each in known if each not in skipped]
    others = in_other_wordings(model.tokenizer, asked, seed)
    if len(others) > ELSEWHERE:
        others = random.Random(seed).sample(others, ELSEWHERE)
    elsewhere = encode_pairs(model.tokenizer, others) if others else []
    return BothSides(name, tuple(before), tuple(after), tuple(notes), tuple(elsewhere))


def about_a_relation(examples: Examples) -> BothSides:
    """Pairs that ask for a relation's facts, edited or not."""
    pairs = examples.pairs
    return BothSides(examples.name, pairs, pairs, examples.notes, objects=ANY_OBJECTS)


@alone
def compare_edit(
    model: Model,
    delta: WeightDelta,
    asked: BothSides,
    search: Search,
    draws: int = DRAWS,
    progress: Progress | None = None,
) -> Rewiring:
    """What the edit did to the circuit behind the pairs; `WeightDelta.fitted_to` may refuse it.

    The result and its circuits say what was asked (`relation`), and under `notes` what was left
    out on the way, and that the edit was made for other weights where it was let pass.
    """
    if search.spans is not None:
        raise OptionError(
            "`spans`: what an edit rewired is told without spans; leave them out, or discover both "
            "circuits with them and compare the two"
        )
    notes, report = list(asked.notes), None
    delta = delta.fitted_to(model)
    if "made_for" in delta.provenance:
        notes.append(f"the edit was made for other weights than those of {model.name!r}")
    if search.roles:
        report, reason = roles_if_any(
            model, asked.before, by_example=False, batch_size=search.batch_size
        )
        notes += [] if report is not None else [f"no roles: {reason}"]
    found = rewiring(
        model,
        delta,
        asked.before,
        asked.after,
        selector=search.selected,
        scoring=search,
        roles={} if report is None else report.roles,
        resamples=search.resamples,
        draws=draws,
        elsewhere=asked.elsewhere,
        seed=search.seed,
        batch_size=search.batch_size,
        progress=progress,
    )
    about = {"relation": asked.name, "notes": notes, "objects": list(asked.objects)}
    return _told(found, about)


def _told(found: Rewiring, about: Mapping[str, Any]) -> Rewiring:
    """The rewiring saying what it was asked about, and its circuits the relation."""

    def told(circuit: Circuit) -> Circuit:
        return replace(circuit, provenance={**circuit.provenance, "relation": about["relation"]})

    sides = found.comparison
    return replace(
        found,
        comparison=replace(sides, before=told(sides.before), after=told(sides.after)),
        provenance={**found.provenance, **about},
    )


def _request(record: Mapping[str, Any]) -> EditRequest:
    target: Any = record.get("target") or record.get("target_new")  # EasyEdit's name
    return EditRequest(
        slotted(record["prompt"], record["subject"]),
        record["subject"],
        target,
        record.get("ground_truth"),
        record.get("relation"),
    )
