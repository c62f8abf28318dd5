"""Neurons on the screen: how much of what an MLP does its best ones carry, by how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from circuits.base.errors import OptionError
from viz import theme
from viz.screen.circuit import with_title
from viz.screen.curves import MARKS, band
from viz.screen.style import axis, new_figure, plain

if TYPE_CHECKING:
    from circuits.base.intervals import Interval
    from locate.neurons.report import NeuronReport

MOST = len(theme.SERIES)
"""MLPs that are drawn, those first whose patching changes the metric most."""


def neurons_figure(
    found: NeuronReport, title: str | None = None, mlps: Sequence[str] = ()
) -> go.Figure:
    """Share of what patching an MLP costs that its best neurons cost, against how many (log scale).

    Bands are 95 % intervals; dashed grey are as many random neurons of the same MLP. `mlps` are
    the names of those to draw, by default the first `MOST` notable ones that matter.
    """
    shown = list(mlps) or [mlp for mlp in found.notable if found.matters(mlp)][:MOST]
    if not shown:
        raise OptionError("patching none of these MLPs changes the metric: there is no share")
    figure = new_figure(height=360, margin={"l": 60, "r": 16, "t": 20, "b": 84})
    sizes = np.array(found.sizes, dtype=float)
    figure.update_layout(
        xaxis=axis(
            type="log",
            title={"text": f"neurons patched together, of {found.d_mlp:,}"},
            tickvals=list(found.sizes),
            ticktext=[f"{size:,}" for size in found.sizes],
        ),
        yaxis=axis(title={"text": "share of what the MLP does"}, tickformat=".0%"),
    )
    for level in (0, 1):
        figure.add_hline(y=level, line={"color": theme.RULE, "width": 1}, layer="below")
    for index, mlp in enumerate(shown):  # bands lie below all curves
        best = [each.share for each in found.shares(mlp)]
        low, high = (np.array([getattr(each, end) for each in best]) for end in ("low", "high"))
        band(figure, sizes, low, high, theme.SERIES[index % len(theme.SERIES)])
    for index, mlp in enumerate(shown):
        shares = found.shares(mlp)
        colour = theme.SERIES[index % len(theme.SERIES)]
        best = [each.share for each in shares]
        _curve(figure, sizes, [each.random for each in shares], "random ones", mlp, not index)
        _curve(figure, sizes, best, mlp, mlp, True, colour, MARKS[index % len(MARKS)])
    return with_title(figure, title)


def _curve(
    figure: go.Figure,
    sizes: np.ndarray,
    shares: Sequence[Interval],
    name: str,
    mlp: str,
    listed: bool,
    colour: str = theme.MUTED,
    mark: str = "circle-open",
) -> None:
    """One curve; that of random neurons is grey and dashed."""
    dash = "5px,3px" if colour == theme.MUTED else "solid"
    figure.add_scatter(
        x=sizes,
        y=[each.value for each in shares],
        name=plain(name),
        showlegend=listed,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 6.5, "symbol": mark, "color": colour},
        text=[f"{plain(mlp)}, {plain(name)}"] * len(shares),
        hovertemplate="%{text}<br>%{x:,.0f} neurons: %{y:.1%}<extra></extra>",
    )
