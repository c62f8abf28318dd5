"""What is known about a collapsed group: its nodes, and the edges that its lines stand for."""

from __future__ import annotations

import numpy as np
from dash import html

from circuits.base.display import visible
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from viz.app import parts
from viz.app.controls import clear_button, collapse_button
from viz.app.details import edge_list
from viz.screen.scene import Scene

SUMMED = "A line's score is the signed sum of its edges' scores."


def box_details(
    circuit: Circuit, scene: Scene, name: str, comparison: Comparison | None = None
) -> list[html.Div | html.P | html.Dl | html.Details]:
    """The nodes of a group's box, and the edges into it, out of it and within it."""
    node = scene.layout.nodes[scene.nodes.index(name)]
    box = scene.layout.boxes[node]
    into, out = scene.layout.meets(node)
    wiring, kept = circuit.wiring, np.flatnonzero(circuit.kept)
    sources = np.array(wiring.src_names)[wiring.edge_src[kept]]
    readers = np.array(wiring.dst_nodes)[wiring.edge_dst[kept]]
    own = set(box.members)
    absorbed = set(readers.tolist()) - set(scene.layout.nodes)
    within = [*own, *(each for each in absorbed if own & set(wiring.heads_of(each)))]
    inside = int((np.isin(sources, box.members) & np.isin(readers, within)).sum())
    rows = [("nodes", ", ".join(box.members)), ("edges within", f"{inside:,}")]
    return [
        html.Div(
            [html.H2(f"{visible(box.name)}: {len(box.members)} nodes"), _buttons(box.name)],
            className="heading",
        ),
        parts.pairs(rows),
        html.P(SUMMED, className="hint"),
        edge_list("Edges in", circuit, into, None, comparison),
        edge_list("Edges out", circuit, out, None, comparison),
    ]


def bundle_details(
    circuit: Circuit, scene: Scene, name: str, comparison: Comparison | None = None
) -> list[html.Div | html.P | html.Dl | html.Details]:
    """The edges that a line between boxes stands for, and the sums of their scores."""
    line = scene.names.index(name)
    bundle = scene.layout.bundles[line]
    rows = [("edges", f"{len(bundle):,}")]
    if comparison is not None and comparison.scores is not None:
        before, after = (float(values[bundle].sum()) for values in comparison.scores)
        rows += [("score before", f"{before:+.4g}"), ("score after", f"{after:+.4g}")]
    elif comparison is None and circuit.scores is not None:
        scores = circuit.scores.values[bundle]
        rows += [
            ("score, summed", f"{float(scores.sum()):+.4g}"),
            ("sum of |score|", f"{float(np.abs(scores).sum()):.4g}"),
        ]
    if comparison is not None:
        rows.append(("status", scene.classes[line]))
    return [
        html.Div([html.H2(visible(name)), clear_button()], className="heading"),
        parts.pairs(rows),
        html.P(SUMMED, className="hint"),
        edge_list("Its edges", circuit, bundle, None, comparison),
    ]


def _buttons(title: str) -> html.Span:
    return html.Span([collapse_button(title, title, True), clear_button()])
