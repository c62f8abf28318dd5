"""A circuit on the screen: heads by layer, the strongest edges, colours as on paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuits.base.choices import Meaning
from circuits.graph.circuit import Circuit
from circuits.model.wiring import node_kind
from viz import theme
from viz.groups import Groups
from viz.layout import Placement, lay_out
from viz.screen.boxes import bundled, line_names
from viz.screen.drawing import figure_of
from viz.screen.scene import Scene, make_scene
from viz.screen.style import dash, plain
from viz.strongest import FEW

COLUMNS = 16
MOST_EDGES = 2000
"""Edges that a picture can show at once; beyond that it says nothing to anyone."""


def circuit_figure(
    circuit: Circuit,
    max_edges: int = FEW,
    title: str | None = None,
    placement: Placement | str = Placement.COMPACT,
) -> go.Figure:
    """The strongest `max_edges` edges of a circuit, layer by layer.

    Blue, solid edges support the answer, orange, dashed ones oppose it; width is |score|, the fill
    of a node its role or kind. The title is what the circuit recalls and in which model, unless
    another is given ("" for none). `customdata` of the last two traces name edges and nodes.
    """
    scene = circuit_scene(circuit, max_edges, placement)
    figure = with_legend(figure_of(scene), scene)
    return with_title(figure, _heading(circuit, scene) if title is None else title)


def _heading(circuit: Circuit, scene: Scene) -> str:
    """What the circuit recalls, and how much of it is drawn."""
    about = circuit.heading()
    size = f"{circuit.n_edges:,} of {circuit.wiring.n_edges:,} edges"
    if scene.n_edges < circuit.n_edges:
        size += f", the {scene.n_edges:,} strongest drawn"
    return f"{about}: {size}" if about else ""


def circuit_scene(
    circuit: Circuit,
    max_edges: int = MOST_EDGES,
    placement: Placement | str = Placement.COMPACT,
    groups: Groups | None = None,
) -> Scene:
    """The scene of a circuit's strongest `max_edges` edges.

    `groups` are drawn as boxes, as on paper: a line between two boxes is worth the signed sum of
    its edges' scores.
    """
    layout = lay_out(circuit, max_edges, placement, COLUMNS, groups)
    n_lines = len(layout.edges)
    scores = None if circuit.scores is None else layout.totals(circuit.scores.values)
    if scores is None:
        size = np.ones(n_lines)
        styles: Sequence[theme.EdgeStyle] = [theme.UNSCORED] * n_lines
    else:
        size = np.abs(scores)
        styles = [theme.edge_style(score, circuit.meaning) for score in scores.tolist()]
    columns = {plain(name): column for name, column in circuit.columns.items()}
    titles = []
    for place, name in enumerate(line_names(circuit.wiring, layout)):
        bundle = layout.bundles[place]
        parts = [f"<b>{plain(bundled(name, bundle))}</b>"]
        if scores is not None:
            parts.append(f"score {scores[place]:+.4g}")
        if len(bundle) == 1:  # how often resamples keep many edges is no sum
            edge = int(bundle[0])
            parts += [f"{title} {column[edge]:.3g}" for title, column in columns.items()]
        titles.append("<br>".join(parts))
    told = scores is not None and circuit.meaning != Meaning.SIZE
    classes = [
        "edge" if not told else "opposes" if s < 0 else "supports"
        for s in (size if scores is None else scores).tolist()
    ]
    return make_scene(circuit, layout, styles, size, titles, classes)


def left_out(n_edges: int, scene: Scene, first: str = "strongest ones") -> str:
    """What of so many edges is in no picture of a scene, and why; empty where nothing is."""
    left = n_edges - scene.n_edges
    if left <= 0:
        return ""
    return (
        f"{left:,} of {n_edges:,} edges are not drawn: on no path from input to logits, or beyond "
        f"the {MOST_EDGES:,} {first}."
    )


def with_legend(figure: go.Figure, scene: Scene) -> go.Figure:
    """The figure with samples of its lines and boxes and what they mean, below it."""
    samples: list[go.Scatter] = []
    for style in dict.fromkeys(group.style for group in scene.groups):
        line = {"color": style.colour, "width": 2.4, "dash": dash(style, 2.4)}
        samples.append(_sample(style.legend, mode="lines", line=line))
    if scene.layout.shared:
        line = {"color": theme.SHARED.colour, "width": 1.4, "dash": dash(theme.SHARED, 1.4)}
        samples.append(_sample(theme.SHARED.legend, mode="lines", line=line))
    for node in scene.layout.nodes:
        look, kind = scene.looks_of(node), node_kind(node)
        if kind not in ("input", "logits") and look.legend not in {each.name for each in samples}:
            marker = {
                "symbol": "square",
                "size": 11,
                "color": look.fill,
                "line": {"color": look.line, "width": 1.5},
            }
            samples.append(_sample(look.legend, mode="markers", marker=marker))
    drawn = figure.data
    figure.data = []
    figure.add_traces([*samples, *drawn])
    below = {**figure.layout.margin.to_plotly_json(), "b": 52}
    legend = {"x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}}
    figure.update_layout(showlegend=True, legend=legend, margin=below)
    if figure.layout.height is not None:
        figure.update_layout(height=figure.layout.height + 44)
    return figure


def _sample(name: str, **look: Any) -> go.Scatter:
    """A trace that is drawn in the legend alone."""
    meta = {"part": "legend", "key": name}
    return go.Scatter(x=[None], y=[None], name=name, showlegend=True, meta=meta, **look)


def with_title(figure: go.Figure, title: str | None, below: str = "") -> go.Figure:
    """The figure, with a title above it where there is one, and a smaller line below that."""
    if title:
        figure.update_layout(
            title={
                "text": plain(title),
                "subtitle": {"text": plain(below), "font": {"size": 12}},
                "x": 0.01,
                "y": 0.99,
                "yanchor": "top",
                "font": {"size": 15},
            },
            margin={**figure.layout.margin.to_plotly_json(), "t": 62 if below else 44},
        )
    return figure
