"""Numbers before and after a change, side by side: what an edit did to each measure."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from viz import theme
from viz.screen.style import axis, new_figure, panel_title, plain

ROW = 34
SIDES = (("before", "#C3CBD4"), ("after", theme.SUPPORTS.colour))


def sides_figure(
    measures: Mapping[str, tuple[float | None, float | None]], title: str, most: float | None = 1.0
) -> go.Figure:
    """One row a measure, a bar before and a bar after; None leaves a bar out.

    `most` is where the axis ends, by default at 1, the whole of a share; None lets it end where the
    numbers do.
    """
    names = list(measures)
    figure = new_figure(
        height=96 + ROW * len(names),
        barmode="group",
        bargap=0.34,
        bargroupgap=0.08,
        margin={"l": 30 + 7 * max(map(len, names), default=4), "r": 46, "t": 34, "b": 52},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        xaxis=axis(range=None if most is None else [0, most * 1.001], rangemode="tozero"),
        yaxis=axis(autorange="reversed", showgrid=False, ticks="", tickfont={"size": 12}),
    )
    for place, (side, colour) in enumerate(SIDES):
        values = [measures[name][place] for name in names]
        figure.add_bar(
            x=values,
            y=[plain(name) for name in names],
            orientation="h",
            name=side,
            marker={"color": colour},
            text=["" if value is None else f"{value:.3g}" for value in values],
            textposition="outside",
            cliponaxis=False,
            textfont={"size": 11, "color": theme.MUTED},
            hovertemplate=f"%{{y}}<br>{side} %{{x:.4g}}<extra></extra>",
        )
    panel_title(figure, plain(title), 0.0)
    return figure
