"""One circuit: its picture, what is known of every node and edge, and its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from dash import html

from circuits.base.display import visible
from circuits.graph.circuit import Circuit
from viz import theme
from viz.app import parts
from viz.app.context import Context, prompts_of
from viz.app.details import known_facts
from viz.app.library import Entry
from viz.app.workspace import Collapsed, Work
from viz.asked import metric_name, question
from viz.screen.boxes import groups_of, in_pieces
from viz.screen.circuit import MOST_EDGES, circuit_scene, left_out
from viz.screen.scene import Scene


def circuit_work(context: Context, entry: Entry, circuit: Circuit, groups: Collapsed = ()) -> Work:
    """What the workspace shows of a circuit, with these groups as boxes."""
    boxes = groups_of(groups, circuit.wiring)
    scene = circuit_scene(circuit, MOST_EDGES, groups=boxes)
    origin = circuit.provenance
    relation, model = origin.get("relation"), origin.get("model")
    title = f"{relation} in {model}" if relation and model else entry.name
    if isinstance(origin.get("prompt"), str):
        title = f"{origin['prompt']} … {origin.get('answer', '')}"
    present = set(scene.classes)
    scored = [
        (name, theme.edge_style(score, circuit.meaning))
        for name, score in (("supports", 1), ("opposes", -1))
    ]
    legend = [each for each in scored if each[0] in present] or [
        ("edge", theme.plain_style(circuit.meaning))
    ]
    about = [question(circuit), subtitle(circuit)]
    return Work(
        result=entry.id,
        view="circuit",
        title=visible(title),
        lead=circuit.says(),
        subtitle=visible("  ·  ".join(filter(None, about))),
        circuit=circuit,
        scene=scene,
        legend=legend,
        edge_rows=edge_rows(circuit, scene),
        edge_columns=edge_columns(circuit),
        about=summary_of(circuit),
        notes=[told] if (told := left_out(circuit.n_edges, scene)) else [],
        pieces=in_pieces(boxes, scene.layout),
    )


def subtitle(circuit: Circuit) -> str:
    """Method and metric in one line."""
    origin = circuit.provenance
    named = [str(origin["method"])] if "method" in origin else []
    if "metric" in origin:
        named.append(metric_name(str(origin["metric"])))
    return "  ·  ".join(named)


def _questions(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Both prompts from where their question begins, with answer and foil."""
    start = record.get("start", 0)
    clean, corrupted = (str(record[side])[start:].strip() for side in ("clean", "corrupted"))
    return clean, str(record["answer"]), corrupted, str(record["foil"])


def asked_table(circuit: Circuit) -> Any:
    """Every prompt that found the circuit, with its corrupted prompt and foil."""
    prompts = prompts_of(circuit)
    if not prompts:
        return None
    rows = [_questions(each) for each in prompts]
    header = ("prompt", "answer", "corrupted prompt", "foil")
    n = f"{len(rows):,} prompt{'' if len(rows) == 1 else 's'}"
    less = ", less what stands before" if any(each.get("start") for each in prompts) else ""
    return html.Details(
        [
            html.Summary(f"What was asked{less}: {n}, each against another"),
            parts.small_table(header, rows),
        ],
        className="asked",
    )


def main_head(circuit: Circuit) -> tuple[str, str] | None:
    """The head that adds most to the answer by its stored evidence, with its share and check."""
    found = [
        (float(each["mover"]["share"]), each)
        for each in circuit.evidence.get("roles", ())
        if isinstance(each, Mapping)
        and isinstance(each.get("mover"), Mapping)
        and isinstance(each["mover"].get("share"), int | float)
    ]
    if not found:
        return None
    share, record = max(found, key=lambda each: each[0])
    check = record.get("check")
    verdict = check.get("verdict") if isinstance(check, Mapping) else None
    silenced = f"; silencing it: {verdict}" if verdict else ""
    return str(record.get("name", "")), f"{share:.0%} of what all heads add{silenced}"


def faithfulness(circuit: Circuit) -> str:
    """With its interval where the circuit carries one; on held-out pairs if any."""
    found = circuit.measured.get("faithfulness")
    if isinstance(found, Mapping):
        return parts.interval(found)
    value = circuit.provenance.get("faithfulness")
    return parts.number(float(value)) if isinstance(value, int | float) else ""


def edge_rows(circuit: Circuit, scene: Scene) -> list[dict[str, Any]]:
    """One record a line, in the scene's order; of several edges it has the sum of the scores."""
    layout = scene.layout
    columns: dict[str, np.ndarray] = {}
    if circuit.scores is not None:
        columns["score"] = layout.totals(circuit.scores.values)
    single = np.array([len(bundle) == 1 for bundle in layout.bundles], dtype=bool)
    columns |= {
        name: np.where(single, column[layout.edges], np.nan)
        for name, column in circuit.columns.items()
    }
    return [
        {
            "edge": name,
            **{
                key: None if np.isnan(column[row]) else float(column[row])
                for key, column in columns.items()
            },
        }
        for row, name in enumerate(scene.names)
    ]


def edge_columns(circuit: Circuit) -> list[dict[str, Any]]:
    """Columns of the table of edges."""
    found = [parts.column("edge", "edge", 140, minWidth=124)]
    if circuit.scores is not None:
        found.append(parts.column("score", "score", 74, numeric=True))
    titles = {"inclusion": "resamples"}
    found += [
        parts.column(name, titles.get(name, name), 82, numeric=True)
        for name in circuit.columns
        if name not in ("low", "high")  # the details say them
    ]
    return found


def summary_of(circuit: Circuit) -> list[Any]:
    """The panel that stands where nothing is selected."""
    measures = circuit.measured
    head = main_head(circuit)
    rows: list[tuple[str, Any]] = [
        ("adds most to the answer", None if head is None else f"{head[0]}: {head[1]}"),
        ("edges", f"{circuit.n_edges:,} of {circuit.wiring.n_edges:,}"),
        ("nodes", str(len(circuit.nodes()))),
        ("faithfulness", faithfulness(circuit)),
        ("of all edges outside", parts.interval(measures.get("completeness"))),
        ("of random circuits", parts.interval(measures.get("random_faithfulness"))),
    ]
    hits = measures.get("hit_at_10")
    if isinstance(hits, dict):
        rows.append(("Hit@10, circuit", parts.interval(hits.get("circuit"))))
        rows.append(("Hit@10, whole model", parts.interval(hits.get("model"))))
    stability = circuit.evidence.get("stability")
    if isinstance(stability, dict) and stability:
        counts = [f"{stability.get(name, 0)} {name}" for name in ("core", "contingent", "noise")]
        rows.append(("edges by stability", ", ".join(counts)))
    if "held_out" in circuit.evidence:
        where = circuit.provenance.get("faithfulness_on") or "pairs that did not find it"
        rows.append(("measured on", f"{where} ({measures.get('n_pairs')} pairs)"))
    labelled: dict[str, list[str]] = {}
    for node, role in circuit.roles.items():
        labelled.setdefault(role, []).append(node)
    for role, nodes in labelled.items():
        rows.append((f"{role} heads", ", ".join(nodes[:10]) + (" …" if len(nodes) > 10 else "")))
    found = known_facts(rows, circuit.provenance)
    return [*found[:2], asked_table(circuit), *found[2:]]
