"""Where in the prompt and in the model a circuit of spans works, on the screen."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from circuits.base.errors import OptionError
from circuits.graph.by_span import by_layer
from circuits.graph.circuit import Circuit
from viz import theme
from viz.paper.spans import COUNTED, SCORED
from viz.screen.circuit import with_title
from viz.screen.style import axis, new_figure, plain


def spans_figure(circuit: Circuit, title: str | None = None) -> go.Figure:
    """A row a span, a column a layer: the summed signed scores of the edges that start there.

    OptionError for a circuit without edges or one that tells no spans apart.
    """
    if not circuit.n_edges:
        raise OptionError("the circuit has no edge: nothing to draw")
    values = by_layer(circuit)
    largest = float(np.abs(values).max()) or 1.0
    layers = ["in", *map(str, range(circuit.wiring.n_layers))]
    what = COUNTED if circuit.scores is None else SCORED
    figure = new_figure(
        height=140 + 34 * len(values), margin={"l": 90, "r": 16, "t": 16, "b": 52}, dragmode=False
    )
    figure.add_heatmap(
        z=values,
        x=layers,
        y=[plain(name) for name in circuit.wiring.spans],
        zmin=-largest,
        zmax=largest,
        colorscale=[(0, theme.OPPOSES.colour), (0.5, theme.PAPER), (1, theme.SUPPORTS.colour)],
        xgap=1,
        ygap=1,
        hovertemplate=f"%{{y}}, layer %{{x}}<br>{what} %{{z:.4g}}<extra></extra>",
        colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": "score"}},
    )
    figure.update_xaxes(axis(title={"text": "layer"}, showgrid=False, ticks="", type="category"))
    figure.update_yaxes(axis(showgrid=False, ticks="", autorange="reversed", type="category"))
    return with_title(figure, title)
