"""The facts and sentence templates that the embedded models are trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from circuits.facts.facts import ATLAS_DIR, read_atlas


@dataclass(frozen=True)
class TrainRelation:
    """One relation: its facts, subject to object, and the ways to state them.

    Templates hold `{}` where the subject goes and end where the object follows; `follow`
    templates continue a text about a subject already named and hold no `{}`.
    """

    name: str
    kind: str
    objects: dict[str, str]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    follow: tuple[str, ...]


def training_relations(directory: Path = ATLAS_DIR) -> list[TrainRelation]:
    """All relations of an atlas directory."""
    return [
        TrainRelation(
            name=relation.name,
            kind=relation.kind,
            objects={fact.subject: fact.object for fact in relation.facts},
            train=relation.templates,
            held_out=relation.held_out,
            follow=relation.follow,
        )
        for relation in read_atlas(directory).values()
    ]


def development_split(relations: list[TrainRelation], seed: int) -> list[TrainRelation]:
    """The same relations with one training template each held out, in place of `held_out`.

    For comparing recipes: the atlas's own held-out templates are dropped, so they cannot be seen.
    """
    split = []
    for relation in relations:
        chosen = random.Random(f"{seed}:{relation.name}").choice(relation.train)
        kept = tuple(template for template in relation.train if template != chosen)
        split.append(replace(relation, train=kept, held_out=(chosen,)))
    return split
