"""The stored parts of `hallucination` as arrays, one row a case, with the relation of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.by_layer import curve
from experiments.analyses.engine.claims import average, false_discovery, paired_p
from experiments.analyses.engine.groups import BY_ROLE, GROUPS, MOVERS, group_of
from experiments.analyses.hallucination.recall import KINDS, Kind


@dataclass(frozen=True, eq=False)
class CurveRows:
    """Ranks (0 is best) and probabilities by state of the cases that have this curve."""

    rank: Float[np.ndarray, "case state"]
    probability: Float[np.ndarray, "case state"]
    clusters: list[str]


@dataclass(frozen=True, eq=False)
class Components:
    """Repaired by component: `values[kind][size][case]` for each number of components."""

    counts: list[int]
    pool: int
    values: dict[str, list[np.ndarray]]
    clusters: list[str]
    names: Counter[str]


@dataclass(frozen=True, eq=False)
class Rows:
    """All followed cases; `paired` ones have partners, and so contributions of components."""

    parts: Mapping[str, Mapping[str, Any]]
    relations: list[str]
    kinds: list[str]
    chance: list[float]
    paired_relations: list[str]
    paired_kinds: list[str]
    attention: dict[str, list[float]]
    attention_relations: list[str]
    states: dict[str, Float[np.ndarray, "case layer"]]
    components: dict[str, Components]


def gather(parts: Mapping[str, Part]) -> Rows:
    """The followed cases of all relations."""
    followed = {name: part["followed"] for name, part in parts.items() if part["followed"]}
    cases = [(name, case) for name, each in followed.items() for case in each["cases"]]
    paired = [(name, case) for name, case in cases if case["paired"]]
    attention: dict[str, list[float]] = {"wrong": [], "right": []}
    attending: list[str] = []
    for name, each in followed.items():
        attending += [name] * len(each["attention"]["wrong"])
        for side, values in attention.items():
            values += each["attention"][side]
    return Rows(
        parts=followed,
        relations=[name for name, _ in cases],
        kinds=[case["kind"] for _, case in cases],
        chance=[number(followed[name]["chance_of_attribute"]) for name, _ in cases],
        paired_relations=[name for name, _ in paired],
        paired_kinds=[case["kind"] for _, case in paired],
        attention=attention,
        attention_relations=attending,
        states=_states(followed),
        components=_components(followed),
    )


def kind_rows(rows: Rows) -> dict[Kind, np.ndarray]:
    """For each kind of wrong answer, which cases are of it."""
    kinds = np.array(rows.kinds)
    return {kind: (kinds == str(kind)).astype(float) for kind in KINDS}


def curve_rows(rows: Rows, side: str, label: str) -> CurveRows:
    """The curves of one side (`wrong`, `right`, `others`), of the true object or what was said."""
    ranks, shares, clusters = [], [], []
    for name, each in rows.parts.items():
        for found in each["curves"][side]:
            if found is not None and label in found:
                ranks.append(found[label]["rank"])
                shares.append(found[label]["probability"])
                clusters.append(name)
    return CurveRows(np.array(ranks, dtype=float), np.array(shares, dtype=float), clusters)


def group_rows(rows: Rows) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By kind of component what is written for the true object over the wrong answer.

    Wrong and right, one value a paired case; `all` is the model's whole difference of logits. The
    groups of `BY_ROLE` are NaN in relations without mover heads.
    """
    found: dict[str, list[list[float]]] = {name: [[], []] for name in GROUPS}
    whole: list[list[float]] = [[], []]
    for each in rows.parts.values():
        names, roles = each["written"]["sources"], each["roles"]
        groups = np.array([group_of(name, roles) for name in names])
        unknown = () if (groups == MOVERS).any() else BY_ROLE
        for place, side in enumerate(("wrong", "right")):
            values = np.array(each["written"][side]).reshape(-1, len(names))
            for name in GROUPS:
                own = values[:, groups == name].sum(1).tolist()
                found[name][place] += [np.nan] * len(own) if name in unknown else own
            whole[place] += each["written"][f"{side}_difference"]
    kept = {name: sides for name, sides in found.items() if np.nan_to_num(sides).any()}
    return {
        name: (np.array(sides[0]), np.array(sides[1]))
        for name, sides in (kept | {"all": whole}).items()
    }


def written_for_wrong(rows: Rows, kind: Kind | None) -> tuple[np.ndarray, list[str]]:
    """What mover heads write for the wrong answer over the true object where it is answered wrong.

    One value a paired case (of a kind of wrong answer, where one is given) of a relation that has
    mover heads, and the relations.
    """
    movers = group_rows(rows).get(MOVERS, (np.full(len(rows.paired_relations), np.nan),) * 2)[0]
    chosen = np.array([kind is None or each == str(kind) for each in rows.paired_kinds], dtype=bool)
    chosen &= np.isfinite(movers)
    names = [n for n, kept in zip(rows.paired_relations, chosen, strict=True) if kept]
    return -movers[chosen], names


def movers_for_wrong(rows: Rows, side: str) -> tuple[np.ndarray, list[str]]:
    """Share of mover heads that write more for the wrong answer than for the true object.

    One value a paired case of a relation that has mover heads, and the relations; `side` is
    `wrong` or `right`.
    """
    shares: list[float] = []
    clusters: list[str] = []
    for name, each in rows.parts.items():
        sources, roles = each["written"]["sources"], each["roles"]
        movers = np.array([group_of(source, roles) == MOVERS for source in sources])
        values = np.array(each["written"][side]).reshape(-1, len(sources))
        if movers.any() and len(values):
            shares += (values[:, movers] < 0).mean(1).tolist()
            clusters += [name] * len(values)
    return np.array(shares), clusters


def component_rows(rows: Rows) -> list[tuple[str, str, Interval, Interval, Interval, float]]:
    """Name, role, written right, wrong and change, and q, the largest change first.

    One component is compared over all relations that have paired cases.
    """
    sides: dict[str, list[np.ndarray]] = {"wrong": [], "right": []}
    roles: dict[str, Counter[str]] = {}
    names: list[str] = []
    for each in rows.parts.values():
        names = each["written"]["sources"]
        for name, role in each["roles"].items():
            roles.setdefault(name, Counter())[role] += 1
        for side, values in sides.items():
            found = np.array(each["written"][side]).reshape(-1, len(names))
            if len(found):
                values.append(found.mean(0))
    wrong, right = (np.array(sides[side]) for side in ("wrong", "right"))
    q = false_discovery([paired_p(column) for column in (wrong - right).T])
    order = np.argsort(-np.abs((wrong - right).mean(0)), kind="stable")
    return [
        (
            names[src],
            roles[names[src]].most_common(1)[0][0] if names[src] in roles else "",
            average(right[:, src]),
            average(wrong[:, src]),
            average(wrong[:, src] - right[:, src]),
            float(q[src]),
        )
        for src in order
    ]


def node_rows(found: Mapping[str, Any]) -> list[list[Any]]:
    """By source: mass moved on its edges, the control's, the difference and its q."""
    names = next(iter(found.values()))["sources"]
    moved = np.array([each["moved"] for each in found.values()])
    control = np.array([each["control_moved"] for each in found.values()])
    beyond = moved - control
    q = false_discovery([paired_p(column) for column in beyond.T])
    order = np.argsort(-beyond.mean(0), kind="stable")
    return [
        [
            names[src],
            average(moved[:, src]),
            average(control[:, src]),
            average(beyond[:, src]),
            float(q[src]),
        ]
        for src in order
    ]


def repaired_by_layer(rows: Rows, kind: str) -> list[Interval]:
    """Share repaired by the state after each layer, over the cases that have such a donor."""
    values = rows.states[kind]
    known = np.isfinite(values[:, 0])
    names = [name for name, kept in zip(rows.relations, known, strict=True) if kept]
    return curve(values[known], names)


def _states(followed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """By kind of donor; NaN where a case has none, also where no case has."""
    kinds = dict.fromkeys(kind for each in followed.values() for kind in each["states"])
    by_kind = {
        kind: [row for each in followed.values() for row in each["states"][kind]] for kind in kinds
    }
    blank = [np.nan] * max(
        (len(row) for rows in by_kind.values() for row in rows if row), default=0
    )
    found = {}
    for kind, rows in by_kind.items():
        found[kind] = np.array([blank if row is None else row for row in rows], dtype=float)
    return found


def _components(followed: Mapping[str, Any]) -> dict[str, Components]:
    found: dict[str, Components] = {}
    donors = dict.fromkeys(d for each in followed.values() for d in each["components"] or {})
    for donor in donors:
        kept = {n: e for n, e in followed.items() if donor in (e["components"] or {})}
        counts = next(iter(kept.values()))["components"][donor]["counts"]
        values: dict[str, list[np.ndarray]] = {}
        for kind in ("blamed", "random", "matched"):
            values[kind] = [
                np.concatenate([e["components"][donor][kind][size] for e in kept.values()])
                for size in range(len(counts))
            ]
        clusters = [name for name, e in kept.items() for _ in e["components"][donor]["blamed"][0]]
        names: Counter[str] = Counter()
        for each in kept.values():
            names.update(each["components"][donor]["names"])
        pool = len(next(iter(kept.values()))["written"]["sources"]) - 1
        found[donor] = Components(list(counts), pool, values, clusters, names)
    return found
