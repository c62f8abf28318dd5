"""Where in a model a circuit lies, on the screen: nodes and edges by layer and role."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from viz.paper.layers import count_layers, role_name, role_style
from viz.screen.circuit import with_title
from viz.screen.style import axis, new_figure, plain


def layers_figure(circuit: Circuit, title: str | None = None) -> go.Figure:
    """Nodes, edges by the node that writes, and score mass, by layer, stacked by role.

    OptionError for a circuit without edges.
    """
    if not circuit.n_edges:
        raise OptionError("the circuit has no edge: nothing to draw")
    counts = count_layers(circuit)
    panels = counts.panels()
    figure = make_subplots(
        rows=1, cols=len(panels), subplot_titles=list(panels), horizontal_spacing=0.09
    )
    layers = list(range(-1, circuit.wiring.n_layers))
    names = ["in", *map(str, layers[1:])]
    for column, (panel, values) in enumerate(panels.items(), start=1):
        for role, row in zip(counts.roles, values, strict=True):
            style = role_style(role)
            figure.add_bar(
                x=layers,
                y=row,
                name=plain(role_name(role, counts.roles)),
                legendgroup=role,
                showlegend=column == 1,
                marker={"color": style.fill, "line": {"color": style.line, "width": 1}},
                customdata=np.array(names),
                hovertemplate=f"layer %{{customdata}}<br>{plain(panel)}: %{{y:.4g}}",
                row=1,
                col=column,
            )
        figure.update_xaxes(
            axis(
                title={"text": "layer"},
                showgrid=False,
                ticks="",
                tickvals=layers[:: max(1, len(layers) // 12)],
                ticktext=names[:: max(1, len(layers) // 12)],
            ),
            row=1,
            col=column,
        )
        figure.update_yaxes(axis(rangemode="tozero"), row=1, col=column)
    look = new_figure(height=320, margin={"l": 48, "r": 16, "t": 40, "b": 88}).layout
    figure.update_layout(look, barmode="stack", bargap=0.2)
    figure.update_layout(legend={"y": -0.34})
    figure.update_annotations(font={"size": 12})
    return with_title(figure, title)
