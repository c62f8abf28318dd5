"""What `hallucination` reports of components and edges: who writes the wrong answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Figure, Part, Section
from experiments.analyses.engine.claims import Claim, average, difference, so_many
from experiments.analyses.engine.tables import Table, shown
from experiments.analyses.hallucination.numbers import (
    Rows,
    component_rows,
    group_rows,
    movers_for_wrong,
    node_rows,
    written_for_wrong,
)
from experiments.analyses.hallucination.recall import Kind
from viz.paper.charts import Bars

OVER = "relations"
SHOWN = 12


def writer_section(rows: Rows) -> Section:
    """What kinds of components, and which ones, write for the wrong answer."""
    groups = group_rows(rows)
    clusters = rows.paired_relations
    without = len(set(clusters)) - len(set(written_for_wrong(rows, None)[1]))
    written = {
        name: {
            "answered right": average(right, clusters),
            "answered wrong": average(wrong, clusters),
            "change": average(wrong - right, clusters),
        }
        for name, (wrong, right) in groups.items()
    }
    table = Table(
        "writers",
        ("component", "answered right", "answered wrong", "change"),
        [[name, *found.values()] for name, found in written.items()],
        title="Logits written for the true object over the wrong answer, at the last token",
        note=f"{len(clusters)} cases; 95 % intervals over {len(set(clusters))} relations. "
        "Negative: written for the wrong answer."
        + (
            f" Kinds of heads without the {so_many(without, OVER)} in which none is known to be a "
            "mover."
            if without
            else ""
        ),
        default_digits=2,
        totals=("all",),
    )
    kinds = [name for name in groups if name != "all"]
    chart = Bars(
        kinds,
        {
            side: [written[name][side] for name in kinds]
            for side in ("answered right", "answered wrong")
        },
        "logits, true over wrong",
        level=0.0,
        width=4.8,
    )
    caption = (
        "What kinds of components write directly for the true object against the wrong answer "
        "(above 0) or for the wrong answer (below 0), with 95 % intervals over relations."
    )
    return Section(
        "Who writes the wrong answer",
        "",
        (table, _component_table(rows)),
        writer_claims(rows)[1:],
        (Figure("writers", caption, chart.draw),),
    )


def _component_table(rows: Rows) -> Table:
    return Table(
        "components",
        ("component", "most frequent role", "answered right", "answered wrong", "change", "q"),
        component_rows(rows)[:SHOWN],
        title="The components whose writing changes most",
        note="q: false discovery rate over all components (sign-flip test over relations).",
        default_digits=2,
        digits={"q": 4},
    )


def writer_claims(rows: Rows) -> tuple[Claim, ...]:
    """What mover heads write and where they look, in wrong and in right runs."""
    claims = []
    for what, found in (
        ("mover heads write more for the wrong answer than for the true object", None),
        (
            "where the wrong answer is true of the subject under another relation, mover heads "
            "write more for it than for the true object",
            Kind.OTHER_RELATION,
        ),
    ):
        values, clusters = written_for_wrong(rows, found)
        claims.append(
            difference(
                what,
                values,
                np.zeros(len(values)),
                opposite=what.replace(
                    "for the wrong answer than for the true object",
                    "for the true object than for the wrong answer, even where that comes out",
                ).replace("for it than for the true object", "for the true object than for it"),
                unit="logits",
                over=OVER,
                clusters=clusters,
            )
        )
    wrong, clusters = movers_for_wrong(rows, "wrong")
    if len(wrong):
        claims.append(
            difference(
                "[more|fewer] mover heads favour the wrong answer over the true object where the "
                "fact is answered wrong than where it is answered right",
                wrong,
                movers_for_wrong(rows, "right")[0],
                unit="points of the mover heads",
                scale=100,
                over=OVER,
                clusters=clusters,
            )
        )
    if len(rows.attention["wrong"]):
        claims.append(
            difference(
                "mover heads attend [more|less] to the subject where the answer is right",
                np.array(rows.attention["right"]),
                np.array(rows.attention["wrong"]),
                unit="points of attention",
                scale=100,
                over=OVER,
                clusters=rows.attention_relations,
            )
        )
    return tuple(claims)


# --- edges ---------------------------------------------------------------------------------------


def edge_section(parts: Mapping[str, Part], level: float) -> Section:
    """Which edges score otherwise, beside the control."""
    found = {
        name: part["followed"]["edges"]
        for name, part in parts.items()
        if part["followed"] and part["followed"]["edges"]
    }
    if not found:
        return Section("Which edges differ", "Too few facts have partners to compare edges.")
    columns = {
        "facts": "facts",
        "edges tested": "tested",
        "called changed": "changed",
        "called changed, control": "control",
        "mass moved": "dissimilarity",
        "mass moved, control": "control_dissimilarity",
    }
    by_relation = Table(
        "edges_by_relation",
        ("relation", *columns),
        [[name, *(each[column] for column in columns.values())] for name, each in found.items()],
        title="Edges that score otherwise where the answer is wrong",
        note="Control: two wordings that are both answered right. Mass moved: share of the sum of "
        "|score| of both sides.",
        default_digits=2,
    )
    claims = (
        difference(
            "edge scores move [more|less] between a right and a wrong answer than between two "
            "wordings that are both answered right",
            [each["dissimilarity"] for each in found.values()],
            [each["control_dissimilarity"] for each in found.values()],
            unit="points of score mass",
            scale=100,
            over=OVER,
        ),
    )
    tables = [by_relation, _node_table(found)]
    if any(each["rows"] for each in found.values()):
        tables.append(_called_table(found))
    changed = sum(each["changed"] for each in found.values())
    control = sum(each["control"] for each in found.values())
    text = (
        f"Of {shown(sum(each['tested'] for each in found.values()))} tests of single edges, "
        f"{shown(changed)} call an edge changed at a false discovery rate of "
        f"{100 * level:.3g} % a relation, "
        f"{shown(control)} in the control. "
    )
    text += (
        "A test of so many edges on few facts finds only what changes a lot and in every fact; "
        "sums over the edges that leave a node say more."
    )
    return Section("Which edges differ", text, tuple(tables), claims)


def _node_table(found: Mapping[str, Any]) -> Table:
    return Table(
        "edges_by_source",
        ("source", "mass moved", "mass moved, control", "beyond control", "q"),
        node_rows(found)[:SHOWN],
        title="The sources whose outgoing edges move most beyond the control",
        note="In logits, mean over relations with 95 % intervals. q: false discovery rate over all "
        "sources.",
        default_digits=2,
        digits={"q": 4},
    )


def _called_table(found: Mapping[str, Any]) -> Table:
    called = [(name, row) for name, each in found.items() for row in each["rows"]]

    def change(row: Mapping[str, Any]) -> Interval:
        return Interval(row["wrong"] - row["right"], number(row["low"]), number(row["high"]))

    return Table.of(
        "edges_called",
        called,
        {
            "relation": lambda each: each[0],
            "edge": lambda each: each[1]["edge"],
            "score, right": lambda each: each[1]["right"],
            "change when wrong": lambda each: change(each[1]),
            "change, control": lambda each: each[1]["control"],
            "q": lambda each: each[1]["q"],
        },
        title="Edges called changed",
        digits={"q": 4},
        long=len(called) > SHOWN,
    )
