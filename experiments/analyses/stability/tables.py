"""The tables of `stability`'s report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import interval, number
from circuits.graph.resample import Stability
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.tables import Table
from experiments.analyses.stability.numbers import (
    OUTCOMES,
    Reads,
    chance_jaccard,
    counted,
    mean_known,
    not_listed,
    over_relations,
    pooled,
    rest_of,
    singles,
)

LABELS = tuple(str(label) for label in Stability)


def labels_table(parts: Mapping[str, Part]) -> Table:
    """Edges and nodes by how many combinations keep them."""

    def kept(what: str, label: str) -> Any:
        return lambda _, part: part["labels"][what][label]

    return Table.of(
        "labels",
        parts,
        {
            "relation": lambda name, _: name,
            **{f"base edges: {label}": kept("base_edges", label) for label in LABELS},
            **{f"edges of any: {label}": kept("edges", label) for label in LABELS},
            **{f"base nodes: {label}": kept("base_nodes", label) for label in LABELS},
            **{f"nodes of any: {label}": kept("nodes", label) for label in LABELS},
        },
        title="Edges and nodes by how many sampled combinations keep them",
        note="Of any: kept by at least one combination.",
    )


def circuits_table(parts: Mapping[str, Part]) -> Table:
    """How faithful the circuits are."""

    def measured_of(name: str) -> Any:
        return lambda _, part: interval(part[name]["faithfulness"]) if part[name] else None

    return Table.of(
        "circuits",
        parts,
        {
            "relation": lambda name, _: name,
            "edges selected": lambda _, part: part["edges"],
            "core edges": lambda _, part: part["core"]["edges"] if part["core"] else 0,
            "base": measured_of("base"),
            "consensus": measured_of("consensus"),
            "core": measured_of("core"),
            "combinations": lambda _, part: mean_known(
                np.array([number(each) for each in part["draws"]["faithfulness"]])
            ),
            "random": lambda _, part: number(part["random"]),
        },
        title="Faithfulness on subjects that found none of the circuits",
        note=(
            "In brackets: 95 % bootstrap intervals over prompt pairs. Core edges are counted after "
            "pruning."
        ),
        default_digits=2,
    )


def settings_table(parts: Mapping[str, Part], name: str, title: str, note: str) -> Table:
    """Settings that are recorded with a reason."""
    rows = [
        [
            relation,
            each["circuit"],
            ", ".join(f"{factor} {level}" for factor, level in each["setting"].items()),
            each["reason"],
        ]
        for relation, part in parts.items()
        for each in part.get(name, ())
    ]
    return Table(name, ("relation", "circuit", "choices", "why"), rows, title=title, note=note)


def edges_table(parts: Mapping[str, Part]) -> Table:
    """The edges that are stored by name."""

    rows = [
        [
            name,
            each["edge"],
            each["inclusion"],
            each["label"],
            each["in_base"],
            ", ".join(each["lost"]),
        ]
        for name, part in parts.items()
        for each in part["listed"]
    ]
    return Table(
        "edges",
        ("relation", "edge", "inclusion", "label", "in base", "lost with another"),
        rows,
        title="Edges of the base circuit, and edges that half of the combinations keep",
        note=" ".join(
            f"Of {name} the {len(part['listed'])} that most combinations keep are listed, and "
            f"{more} others are not."
            for name, part in parts.items()
            if (more := not_listed(part))
        ),
        percent=("inclusion",),
        digits={"inclusion": 0},
        long=True,
    )


def factor_table(order: Sequence[str], values: Sequence[Part]) -> Table:
    """What a change of each choice alone costs."""

    def over(factor: str, what: str) -> Interval:
        return over_relations([mean_known(singles(part, factor, what)) for part in values])

    def change(factor: str) -> Interval:
        base = [number(part["base"]["faithfulness"]["value"]) for part in values]
        found = [mean_known(singles(part, factor, "faithfulness")) for part in values]
        return over_relations([after - before for after, before in zip(found, base, strict=True)])

    def stay(factor: str, how: str) -> Interval:
        found = [part["survive"][factor] for part in values if factor in part["survive"]]
        return over_relations([each[how] / sum(each.values()) for each in found])

    rows: list[list[Any]] = [
        [
            factor,
            over(factor, "jaccard"),
            over(factor, "node_jaccard"),
            over(factor, "spearman"),
            change(factor),
            *(stay(factor, how) for how in ("all", "some", "none")),
        ]
        for factor in order
    ]
    unlike = over_relations([chance_jaccard(part) for part in values])
    rows.append(["random edges", unlike, *([None] * 6)])
    return Table(
        "factors",
        (
            *("choice", "Jaccard", "of nodes", "Spearman", "faithfulness"),
            *("kept by all levels", "by some", "by none"),
        ),
        rows,
        title="The base circuit against circuits with one choice changed",
        note=(
            "Means over a choice's other levels; faithfulness is the change. Kept: of the base's "
            "edges. In brackets: 95 % bootstrap intervals over relations, where there are five or "
            "more."
        ),
        default_digits=2,
        percent=("kept by all levels", "by some", "by none"),
        totals=("random edges",),
    )


def level_table(order: Sequence[str], values: Sequence[Part]) -> Table:
    """Every change of one choice."""

    names = dict.fromkeys(
        (each["factor"], each["level"]) for part in values for each in part["single"]
    )
    measures = ("jaccard", "node_jaccard", "spearman", "faithfulness")

    def over(key: tuple[str, str], what: str) -> Interval:
        return over_relations(
            [
                number(each[what])
                for part in values
                for each in part["single"]
                if (each["factor"], each["level"]) == key
            ]
        )

    rows = [
        [*key, *(over(key, what) for what in measures)]
        for key in sorted(names, key=lambda key: order.index(key[0]))
    ]
    return Table(
        "levels",
        ("choice", "changed to", "Jaccard", "of nodes", "Spearman", "faithfulness"),
        rows,
        title="Every single change",
        default_digits=2,
        long=True,
    )


def variance_table(
    order: Sequence[str],
    shares: Mapping[str, Mapping[str, Sequence[Interval]]],
    values: Sequence[Part],
    read: Sequence[Reads],
) -> Table:
    """The part of each choice, and what is left."""
    rows: list[list[Any]] = [
        [name, counted(name, read), *(pooled(shares[outcome][name]) for outcome in OUTCOMES)]
        for name in order
    ]
    rest = [
        mean_known(np.array([rest_of(part, outcome) for part in values])) for outcome in OUTCOMES
    ]
    rows.append(["together, and chance", None, *rest])
    return Table(
        "variance",
        ("choice", "combinations that read it", *OUTCOMES.values()),
        rows,
        title="Parts of the variance over sampled combinations",
        note=(
            "Of the combinations that read a choice; none of fewer than eight. What is left is of "
            "all combinations."
        ),
        percent=tuple(OUTCOMES.values()),
        digits=dict.fromkeys(OUTCOMES.values(), 0),
        totals=("together, and chance",),
    )
