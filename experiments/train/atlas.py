"""The facts and sentence templates that the embedded models are trained on, as one small reader."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ATLAS = Path(__file__).resolve().parents[2] / "circuits" / "atlas"


@dataclass(frozen=True)
class TrainRelation:
    """One relation: its facts and the ways to state them.

    Templates hold `{}` where the subject goes and end where the object follows; `follow`
    templates continue a text about a subject already named and hold no `{}`.
    """

    name: str
    category: str
    kind: str
    objects: dict[str, str]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    follow: tuple[str, ...]


def _rows(paths: Iterator[Path] | list[Path]) -> Iterator[dict[str, str]]:
    for path in sorted(paths):
        with path.open(encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines)


def read_atlas(directory: Path = ATLAS) -> list[TrainRelation]:
    """All relations of an atlas directory, in the order of its relations file(s)."""
    subjects: dict[str, list[dict[str, str]]] = {}
    templates: dict[tuple[str, str], list[str]] = {}
    for row in _rows(list(directory.glob("templates*.csv"))):
        templates.setdefault((row["relation"], row["split"]), []).append(row["template"].strip())
    relations = []
    for row in _rows(list(directory.glob("relations*.csv"))):
        kind = row["kind"]
        if kind not in subjects:
            subjects[kind] = list(_rows([directory / f"{kind}.csv"]))
        objects = {
            subject["name"].strip(): subject[row["column"]].strip()
            for subject in subjects[kind]
            if (subject.get(row["column"]) or "").strip()
        }
        train, held_out, follow = (
            tuple(templates.get((row["relation"], split), ()))
            for split in ("train", "held_out", "follow")
        )
        if not objects or not train:
            raise ValueError(f"relation {row['relation']!r} in {directory} has no facts or templates")
        relations.append(
            TrainRelation(row["relation"], row["category"], kind, objects, train, held_out, follow)
        )
    return relations


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
