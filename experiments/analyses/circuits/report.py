"""The report of `circuits`: tables, sentences and figures from the stored parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import interval, number
from experiments.analyses.circuits.figures import curve_figures, layer_figures, recall_figure
from experiments.analyses.circuits.numbers import (
    HALVES,
    KINDS,
    grouped,
    hit,
    hits,
    measure,
    over,
    share_of_edges,
    values,
)
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, across, average, measured, minus
from experiments.analyses.engine.tables import Table, shown

OVER = "relations"
PAIRS = "prompt pairs"
MOST_NAMED = 4

METHOD = (
    "Facts are asked in up to three training wordings; what the model does not know is left out. "
    "Known subjects are dealt into two halves, and pairs are made within each half, so that no "
    "subject, clean or corrupted, stands on both sides. EAP-IG with the midpoint rule scores every "
    "edge on the validation half; the best edges by |score| are kept and pruned: a stated number, "
    "or the fewest that reach a stated faithfulness there.",
    "Hit@10 is the share of prompts whose answer's first token is among the ten likeliest, each "
    "half with its own answers. Cut edges carry the corrupted prompt's value. Faithfulness is "
    "(m(C) − m(∅)) / (m(M) − m(∅)) with the logit difference as m, completeness the faithfulness "
    "of everything outside the circuit. Random circuits are connected and have as many edges. CPR "
    "integrates faithfulness over the share of edges kept by signed score, CMD |1 − faithfulness| "
    "with edges ranked by |score|.",
    "Inclusion is the share of resamples of the pairs whose circuit keeps an edge: core from 95 %, "
    "noise below 50 %. Roles are labelled on the validation half and checked on the test half, by "
    "silencing one head at the last token, against four unlabelled heads of the nearest layers.",
    "Intervals of a relation are 95 % bootstrap intervals over its prompt pairs, with the circuit "
    "held fixed; those of averages and of the sentences resample relations.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    answer = _answer(parts)
    sections = [
        Section(
            "What the circuits recall alone",
            _recall_text(parts),
            tables=(_summary_table(parts), _faithfulness_table(parts)),
            figures=(recall_figure(parts), *curve_figures(parts)),
        ),
        Section(
            "Relation by relation",
            "Every relation, with intervals over its prompt pairs.",
            tables=(_hit_table(parts), _measure_table(parts)),
        ),
        Section(
            "Where the circuits lie",
            "How often a layer's heads and MLP are part of a circuit, over all relations.",
            figures=layer_figures(parts),
        ),
        *_role_sections(parts),
    ]
    return Report(_lead(parts), tuple(sections), tuple(answer), METHOD)


# --- words ---------------------------------------------------------------------------------------


def _lead(parts: Mapping[str, Part]) -> str:
    model, circuit = hits(parts, "test", "model").mean(), hits(parts, "test", "circuit").mean()
    faithful = values(parts, "test", "faithfulness")
    edges = over(parts, lambda part: part["edges"])
    return (
        f"With {shown(share_of_edges(parts).mean(), 1, 100)} % of the edges "
        f"({int(edges.min()):,} to {int(edges.max()):,}), circuits of {len(parts)} relations reach "
        f"Hit@10 {shown(float(circuit), 2)} where the whole model reaches "
        f"{shown(float(model), 2)}, on subjects that had no part in finding them; their mean "
        f"faithfulness there is {shown(float(np.nanmean(faithful)), 2)}."
    )


def _answer(parts: Mapping[str, Part]) -> list[Claim]:
    claims = [
        across(
            "circuits recall more than random circuits of their size",
            [
                minus(hit(part, "test", "circuit"), hit(part, "test", "random"))
                for part in parts.values()
            ],
            opposite="random circuits of the same size recall more than the circuits found",
            unit="points of Hit@10",
            scale=100,
            over=OVER,
            within=PAIRS,
        ),
        across(
            "circuits are more faithful on the subjects that found them than on others",
            [
                minus(
                    measure(part, "validation", "faithfulness"),
                    measure(part, "test", "faithfulness"),
                )
                for part in parts.values()
            ],
            opposite="circuits are more faithful on other subjects than on those that found them",
            unit="",
            over=OVER,
            within=PAIRS,
        ),
        measured(
            "the mean faithfulness on the test half is",
            average(values(parts, "test", "faithfulness")),
            len(parts),
            over=OVER,
        ),
    ]
    stable = [part["stability"] for part in parts.values() if part["stability"]]
    if stable:
        shares = [s["core"] / (s["core"] + s["contingent"] + s["noise"]) for s in stable]
        claims.append(
            measured(
                "the share of a circuit's edges that nearly every resample keeps (core) is",
                average(np.array(shares) * 100),
                len(stable),
                unit="%",
                over=OVER,
            )
        )
    mover = _ablation_claim(parts, "mover")
    return [*claims, mover] if mover else claims


def _recall_text(parts: Mapping[str, Part]) -> str:
    few = [name for name, part in parts.items() if part["objects"] <= 10]
    if not few:
        return ""
    return (
        f"{len(few)} of the {len(parts)} relations have at most ten objects "
        f"({', '.join(few)}), so that a circuit which only knows the range of the relation can "
        "score Hit@10 of 1 there: read the random circuits and the faithfulness beside it."
    )


# --- tables --------------------------------------------------------------------------------------


def _summary_table(parts: Mapping[str, Part]) -> Table:
    return Table.of(
        "table1",
        grouped(parts),
        {
            "category": lambda name, _: name,
            "relations": lambda _, group: len(group),
            "edges": lambda _, group: float(over(group, lambda part: part["edges"]).mean()),
            **{
                f"{half}: {kind}": lambda _, group, half=half, kind=kind: average(
                    hits(group, half, kind)
                )
                for half in HALVES
                for kind in KINDS
            },
        },
        title="Hit@10 on the half that found the circuit (validation) and on the other (test)",
        note="In brackets: 95 % bootstrap intervals over relations.",
        default_digits=2,
        digits={"edges": 0},
        totals=("all",),
    )


def _faithfulness_table(parts: Mapping[str, Part]) -> Table:
    def measured_on(half: str, name: str) -> Callable[..., Interval]:
        return lambda _, group: average(values(group, half, name))

    def area(ranking: str, what: str) -> Callable[..., Interval]:
        return lambda _, group: average(over(group, lambda part: _area(part, ranking, what)))

    return Table.of(
        "faithfulness",
        grouped(parts),
        {
            "category": lambda name, _: name,
            "validation: faithfulness": measured_on("validation", "faithfulness"),
            "test: faithfulness": measured_on("test", "faithfulness"),
            "random circuits": measured_on("test", "random_faithfulness"),
            "completeness": measured_on("test", "completeness"),
            "CPR": area("signed", "area"),
            "CMD": area("absolute", "distance"),
            "CMD of random edges": area("random", "distance"),
        },
        title="How far the circuits reproduce the model's logit difference",
        note="The last five columns are on the test half.",
        default_digits=2,
        totals=("all",),
    )


def _area(part: Part, ranking: str, what: str) -> float:
    curve = part.get("curve")
    return number(curve[ranking][what]["value"]) if curve else np.nan


def _hit_table(parts: Mapping[str, Part]) -> Table:
    columns = ["relation", "category", "facts known", "objects"]
    columns += [f"{half}: {kind}" for half in HALVES for kind in ("pairs", *KINDS)]
    rows = []
    for name, part in parts.items():
        facts = part["facts"]
        row: list[Any] = [name, part["category"], f"{facts['known']} of {facts['facts']}"]
        row.append(part["objects"])
        for half in HALVES:
            row.append(part["halves"][half]["n_pairs"])
            row += [hit(part, half, kind) for kind in KINDS]
        rows.append(row)
    return Table(
        "hit_at_10",
        tuple(columns),
        rows,
        title="Hit@10 by relation",
        note="In brackets: 95 % bootstrap intervals over prompt pairs.",
        default_digits=2,
        long=True,
    )


def _measure_table(parts: Mapping[str, Part]) -> Table:
    def on_test(name: str) -> Callable[..., Interval]:
        return lambda _, part: measure(part, "test", name)

    def area(ranking: str, what: str) -> Callable[..., Interval | None]:
        return lambda _, part: interval(part["curve"][ranking][what]) if part.get("curve") else None

    return Table.of(
        "measures",
        parts,
        {
            "relation": lambda name, _: name,
            "edges": lambda _, part: part["edges"],
            "nodes": lambda _, part: part["nodes"],
            "faithfulness": on_test("faithfulness"),
            "random": on_test("random_faithfulness"),
            "completeness": on_test("completeness"),
            "CPR": area("signed", "area"),
            "CMD": area("absolute", "distance"),
            **{
                label: lambda _, part, label=label: (part["stability"] or {}).get(label)
                for label in ("core", "contingent", "noise")
            },
        },
        title="Measures on the test half and stability, by relation",
        note="In brackets: 95 % bootstrap intervals over prompt pairs.",
        long=True,
    )


# --- roles ---------------------------------------------------------------------------------------


def _role_sections(parts: Mapping[str, Part]) -> list[Section]:
    withroles = {name: part for name, part in parts.items() if part.get("roles")}
    if not withroles:
        return []
    rows = [_role_row(name, part["roles"]) for name, part in withroles.items()]
    table = Table(
        "roles",
        (
            "relation",
            "mover heads",
            "without the first",
            "without a control",
            "relation heads",
            "without the first, range",
            "without a control, range",
            "mixture heads",
        ),
        rows,
        title="Roles of the circuit's heads, labelled on one half and checked on the other",
        note=(
            "Heads: confirmed by ablation, of those labelled, the strongest first. Without: change "
            "of the answer's logit against the relation's other objects when the first head "
            "labelled is silenced at the last token (range: of the other objects against all other "
            "tokens); its controls are unlabelled heads of the nearest layers, on average."
        ),
        default_digits=2,
        long=True,
    )
    claims = [
        found for role in ("mover", "relation") if (found := _ablation_claim(withroles, role))
    ]
    return [Section("What the heads do", "", (table,), tuple(claims))]


def _role_row(name: str, roles: Mapping[str, Any]) -> list[Any]:
    heads: Sequence[Mapping[str, Any]] = roles["heads"]
    row: list[Any] = [name]
    for role, gap in (("mover", "answer_gap"), ("relation", "range_gap")):
        own = [head for head in heads if head["role"] == role]
        row += [_confirmed(own), interval(own[0][gap]) if own else None]
        row.append(number(own[0]["control"][gap]) if own else None)
    return [*row, _confirmed([head for head in heads if head["role"] == "mixture"])]


def _confirmed(heads: Sequence[Mapping[str, Any]]) -> str:
    """`8 of 11: a6.h1, a6.h2, ...`, the strongest first."""
    names = [head["name"] for head in heads if head["verdict"] == "confirmed"]
    more = ", ..." if len(names) > MOST_NAMED else ""
    listed = f": {', '.join(names[:MOST_NAMED])}{more}" if names else ""
    return f"{len(names)} of {len(heads)}{listed}" if heads else "none"


def _ablation_claim(parts: Mapping[str, Part], role: str) -> Claim | None:
    """That the loss of the role's heads takes more than that of their controls."""
    checked = [roles for part in parts.values() if (roles := part.get("roles"))]
    costs = [interval(roles["costs"][role]) for roles in checked if role in roles["costs"]]
    if not costs:
        return None
    what = {
        "mover": "silencing a mover head costs the answer more, against other objects,",
        "relation": "silencing a relation head costs the relation's objects more, against other "
        "tokens,",
    }[role]
    what += " than silencing an unlabelled head of the nearest layers"
    return across(what, costs, unit="logits", over=OVER, within=PAIRS)
