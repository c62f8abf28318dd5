"""What all figures on the screen share: font, margins, axes, and text made harmless."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

from circuits.base.display import visible
from viz import theme

FONT = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, "
    "sans-serif"
)
"""The reader's own interface font: nothing is fetched."""
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "displayModeBar": False,
    "responsive": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "toImage"],
}
"""Options of `Figure.show(config=...)` and of the app's graphs."""
LONGEST_TOKEN = 24


def plain(text: str) -> str:
    """Text for a plotly label: `visible`, and nothing in it is read as markup or as TeX."""
    return html.escape(visible(text), quote=True).replace("$", "&#36;")


def token_label(text: str) -> str:
    """A token as a label: without the space in front, cut where it is very long, harmless."""
    shown = text.strip(" ") or text.replace(" ", "␣") or "∅"
    return plain(shown if len(shown) <= LONGEST_TOKEN else shown[: LONGEST_TOKEN - 1] + "…")


def new_figure(**layout: Any) -> go.Figure:
    """An empty figure in the project's look."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        font={"family": FONT, "size": 12, "color": theme.INK},
        paper_bgcolor=theme.PAPER,
        plot_bgcolor=theme.PAPER,
        margin={"l": 56, "r": 16, "t": 32, "b": 44},
        hoverlabel={
            "bgcolor": theme.PAPER,
            "bordercolor": theme.RULE,
            "font": {"family": FONT, "size": 12, "color": theme.INK},
            "align": "left",
        },
        hovermode="closest",
        legend={"orientation": "h", "y": -0.18, "x": 0, "font": {"size": 12}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#B8C1CB", "activecolor": theme.MUTED},
        uirevision="keep",
    )
    figure.update_layout(**layout)
    return figure


def axis(**more: Any) -> dict[str, Any]:
    """An axis with quiet lines and ticks."""
    return {
        "showgrid": True,
        "gridcolor": "#EDF0F3",
        "zeroline": False,
        "linecolor": theme.RULE,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": theme.RULE,
        "tickfont": {"size": 11, "color": theme.MUTED},
        "title": {"font": {"size": 12, "color": theme.MUTED}},
        **more,
    }


def panel_title(figure: go.Figure, text: str, x: float) -> None:
    """A heading above the panel that begins at this share of the width."""
    figure.add_annotation(
        text=text,
        x=x,
        y=1.0,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": 12.5},
    )


def rgb(colour: str, share: float = 1.0) -> str:
    """A colour mixed with the paper's, 1 being the pure colour, as CSS writes it."""
    import numpy as np

    red, green, blue = theme.faded(colour, np.array([share]))[0]
    return f"rgb({round(255 * red)},{round(255 * green)},{round(255 * blue)})"


def dash(style: theme.EdgeStyle, width: float) -> str:
    """A dash pattern of plotly's for a line of so many pixels."""
    if style.dash is None:
        return "solid"
    return ",".join(f"{part * max(width, 1.4):.1f}px" for part in style.dash)
