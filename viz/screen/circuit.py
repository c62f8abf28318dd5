"""A circuit on the screen: heads by layer, the strongest edges, colours as on paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from circuits.graph.circuit import Circuit
from viz import theme
from viz.layout import FEW, Placement, lay_out
from viz.screen.drawing import figure_of
from viz.screen.scene import Scene, make_scene
from viz.screen.style import plain

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
    of a node its role or kind. `customdata` of the last two traces are names of edges and nodes.
    """
    figure = figure_of(circuit_scene(circuit, max_edges, placement))
    return with_title(figure, title)


def circuit_scene(
    circuit: Circuit,
    max_edges: int = MOST_EDGES,
    placement: Placement | str = Placement.COMPACT,
) -> Scene:
    """The scene of a circuit's strongest `max_edges` edges."""
    layout = lay_out(circuit, max_edges, placement, COLUMNS)
    scores = None if circuit.scores is None else circuit.scores.values[layout.edges]
    if scores is None:
        size = np.ones(layout.n_drawn)
        styles: Sequence[theme.EdgeStyle] = [theme.UNSCORED] * layout.n_drawn
    else:
        size = np.abs(scores.astype(np.float64))
        styles = [theme.edge_style(score) for score in scores.tolist()]
    columns = {plain(name): column for name, column in circuit.columns.items()}
    titles = []
    for place, edge in enumerate(layout.edges.tolist()):
        parts = [f"<b>{plain(circuit.wiring.edge_name(edge))}</b>"]
        if scores is not None:
            parts.append(f"score {scores[place]:+.4g}")
        parts += [f"{name} {column[edge]:.3g}" for name, column in columns.items()]
        titles.append("<br>".join(parts))
    classes = [
        "edge" if scores is None else "opposes" if s < 0 else "supports"
        for s in (size if scores is None else scores).tolist()
    ]
    return make_scene(circuit, layout, styles, size, titles, classes)


def with_title(figure: go.Figure, title: str | None) -> go.Figure:
    """The figure, with a title above it where there is one."""
    if title:
        figure.update_layout(
            title={
                "text": plain(title),
                "x": 0.01,
                "y": 0.99,
                "yanchor": "top",
                "font": {"size": 15},
            },
            margin={**figure.layout.margin.to_plotly_json(), "t": 44},
        )
    return figure
