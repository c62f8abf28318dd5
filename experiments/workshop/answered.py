"""How often a language model answers each template: `python -m experiments.workshop.answered`.

Writes the atlas' `answered.csv`, from which the usual templates of a relation follow
(`Relation.usual`): every fact in every training template, without demonstrations. Held-out
templates are not asked, so that they stay held out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from circuits.base.choices import Templates
from circuits.facts.facts import ATLAS_DIR, Relation, atlas
from circuits.facts.knowledge import known_facts
from circuits.model.model import Model

MODEL = "smollm2-135m"


def counted(model: Model, relations: Sequence[Relation]) -> Iterator[tuple[str, str, int, int]]:
    """Relation, template, how many of its questions are answered right and how many were asked."""
    for each in relations:
        by_template = known_facts(model, each, Templates.TRAIN).by_template()
        for template in each.templates:
            if template in by_template:
                yield each.name, template, *by_template[template]


def main() -> None:
    """Ask the model and write the file."""
    from circuits.model.model import load

    rows = list(counted(load(MODEL, device="cpu"), list(atlas().values())))
    with (ATLAS_DIR / "answered.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("relation", "template", "right", "asked"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
