"""Causal traces on the screen: rows of tokens or roles, columns of layers, a panel a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from circuits.base.errors import OptionError
from viz import theme
from viz.screen.circuit import with_title
from viz.screen.style import axis, new_figure, panel_title, plain, token_label
from viz.series import effect_maps

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from locate.states.trace_result import Trace
    from locate.states.trace_roles import AverageTrace

COLOURS = [
    [0.0, theme.OPPOSES.colour],
    [1 / 3, theme.PAPER],
    [0.78, theme.SUPPORTS.colour],
    [1.0, "#00324F"],
]
ROW = 24


def trace_figure(trace: Trace | AverageTrace, title: str | None = None) -> go.Figure:
    """Indirect effects, in the answer's probability or a metric: blue brings it back, orange costs.

    Takes a trace of one prompt (rows are its tokens) or an average over facts (rows are roles of
    positions). The subject's rows are bold.
    """
    if not trace.kinds:
        raise OptionError("the trace holds no kind of state: nothing to draw")
    found = effect_maps(trace)
    panels, labels, subject = found.effects, found.rows, set(found.subject)
    lowest = min(0.0, *(float(effect.min()) for effect in panels.values()))
    largest = max(*(float(effect.max()) for effect in panels.values()), -2 * lowest) or 1.0
    n_rows = len(labels)
    figure = new_figure(
        height=max(260, 110 + ROW * n_rows),
        margin={"l": 24 + 7 * max(len(label) for label in labels), "r": 16, "t": 40, "b": 48},
        coloraxis={
            "colorscale": COLOURS,
            "cmin": -largest / 2,
            "cmax": largest,
            "colorbar": {
                "title": {
                    "text": f"indirect effect ({found.measure})",
                    "side": "right",
                    "font": {"size": 11},
                },
                "thickness": 10,
                "outlinewidth": 0,
                "tickfont": {"size": 11, "color": theme.MUTED},
            },
        },
    )
    shown = [
        f"<b>{token_label(label)}</b>" if row in subject else token_label(label)
        for row, label in enumerate(labels)
    ]
    width = 1 / len(panels)
    for index, (name, effect) in enumerate(panels.items()):
        suffix = "" if index == 0 else str(index + 1)
        # customdata carry the row's label, which the template would otherwise read as markup
        figure.add_heatmap(
            z=effect,
            x=np.arange(effect.shape[1]),
            y=np.arange(n_rows),
            customdata=np.broadcast_to(np.array(shown, dtype=object)[:, None], effect.shape),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            xaxis=f"x{suffix}",
            yaxis=f"y{suffix}",
            hovertemplate=(
                f"{plain(name)}<br>%{{customdata}}, layer %{{x}}<br>effect %{{z:.4f}}"
                "<extra></extra>"
            ),
        )
        figure.update_layout(
            {
                f"xaxis{suffix}": axis(
                    domain=[index * width, (index + 1) * width - 0.02],
                    title={"text": "layer", "font": {"size": 12, "color": theme.MUTED}},
                    anchor=f"y{suffix}",
                    showgrid=False,
                    dtick=max(1, -(-effect.shape[1] // 12)),
                ),
                f"yaxis{suffix}": axis(
                    autorange="reversed",
                    anchor=f"x{suffix}",
                    showgrid=False,
                    tickvals=list(range(n_rows)),
                    ticktext=shown,
                    showticklabels=index == 0,
                    ticks="",
                    tickfont={"size": 12, "color": theme.INK},
                ),
            }
        )
        panel_title(figure, plain(name), index * width)
    return with_title(figure, title)
