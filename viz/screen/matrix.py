"""A sweep's matrix on the screen: a heat map with mean and n in each cell, spread on hovering."""

from __future__ import annotations

import re

import plotly.graph_objects as go

from viz import theme
from viz.matrix import Cell, Matrix
from viz.screen.heat_maps import COLOURS
from viz.screen.style import axis, new_figure, plain

ROW = 40
COLUMN = 74
"""Height of a row and least width of a column, in pixels."""
LONGEST_LABEL = 26
LONGEST_LINE = 12
"""Letters of a row's label, and of a line of a column's."""
ABOVE = [[0.0, "#F3F7FA"], [0.6, theme.SUPPORTS.colour], [1.0, "#00324F"]]
"""Colours of numbers that do not lie on both sides of zero."""


def matrix_figure(matrix: Matrix, cell: tuple[str, ...] = ()) -> go.Figure:
    """Means as colours, darker being higher; two colours where zero lies between; `cell` is framed.

    Each point's customdata are its cell's two values and what hovering says.
    """
    cells = [[(row, column) for column in matrix.columns] for row in matrix.rows]
    means = list(matrix.means.values())
    low, high = min(means, default=0.0), max(means, default=1.0)
    both = low < 0 < high
    if both:  # a third of the scale below zero, where the colours turn
        high = max(high, -2 * low)
        low = -high / 2
    elif low == high:
        low, high = low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9
    bottom = 92
    tall = max((len(_lines(name)) for name in matrix.columns), default=1)
    figure = new_figure(
        height=ROW * max(1, len(matrix.rows)) + 46 + 16 * tall + bottom,
        margin={"l": 8, "r": 12, "t": 8, "b": bottom},
        coloraxis={
            "colorscale": COLOURS if both else ABOVE,
            "cmin": low,
            "cmax": high,
            "colorbar": {
                "orientation": "h",
                "y": 0,
                "yref": "paper",
                "ypad": 14,
                "yanchor": "top",
                "x": 0,
                "xanchor": "left",
                "xpad": 0,
                "len": 1,
                "title": {"text": plain(matrix.number), "side": "bottom", "font": {"size": 11}},
                "thickness": 8,
                "outlinewidth": 0,
                "nticks": 5,
                "tickfont": {"size": 11, "color": theme.MUTED},
            },
        },
    )
    figure.add_heatmap(
        z=[[matrix.means.get(each) for each in line] for line in cells],
        x=list(range(len(matrix.columns))),
        y=list(range(len(matrix.rows))),
        text=[[_inside(matrix, each) for each in line] for line in cells],
        texttemplate="%{text}",
        textfont={"size": 12},
        customdata=[[[*each, _told(matrix, each)] for each in line] for line in cells],
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        hovertemplate="%{customdata[2]}<extra></extra>",
    )
    for side, names, title in (
        ("x", matrix.columns, matrix.column_name),
        ("y", matrix.rows, matrix.row_name),
    ):
        shape = axis(
            title={"text": plain(title), "font": {"size": 12, "color": theme.MUTED}},
            showgrid=False,
            tickvals=list(range(len(names))),
            ticktext=[_label(name) if side == "y" else "<br>".join(_lines(name)) for name in names],
            ticks="",
            automargin=True,
            tickfont={"size": 12, "color": theme.INK},
            showline=False,
        )
        figure.update_layout({f"{side}axis": shape})
    figure.update_xaxes(side="top", range=[-0.5, max(1, len(matrix.columns)) - 0.5])
    figure.update_yaxes(range=[max(1, len(matrix.rows)) - 0.5, -0.5])
    for y, line in enumerate(cells):
        for x, each in enumerate(line):
            if each in matrix.values and each not in matrix.means:
                figure.add_annotation(x=x, y=y, text=_inside(matrix, each), showarrow=False)
    if len(cell) == 2 and cell[0] in matrix.rows and cell[1] in matrix.columns:
        x, y = list(matrix.columns).index(cell[1]), list(matrix.rows).index(cell[0])
        place = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
        figure.add_shape(type="rect", line={"color": "#E69F00", "width": 3}, **place)
    figure.update_layout(dragmode=False)
    return figure


def least_width(matrix: Matrix) -> int:
    """Pixels below which columns would lie over one another."""
    label = min(LONGEST_LABEL, max((len(name) for name in matrix.rows), default=4))
    widest = max((len(line) for name in matrix.columns for line in _lines(name)), default=4)
    return 40 + 7 * label + max(COLUMN, 7 * widest + 8) * max(1, len(matrix.columns))


def _inside(matrix: Matrix, cell: Cell) -> str:
    held = matrix.values.get(cell)
    if held is None:
        return ""
    if not held:
        return f"none<br>of {matrix.bad[cell]:,}"
    return f"{_number(matrix.means[cell])}<br>n {len(held):,}"


def _told(matrix: Matrix, cell: Cell) -> str:
    """What hovering says of a cell, harmless as markup."""
    where = f"{plain(matrix.row_name)} {_label(cell[0])}<br>"
    where += f"{plain(matrix.column_name)} {_label(cell[1])}"
    held = matrix.values.get(cell)
    if held is None:
        return f"{where}<br>no units"
    lines = [where]
    if held:
        low, high, deviation = matrix.spread(cell)
        mean = f"{plain(matrix.number)} {_number(matrix.means[cell])}, mean of n = {len(held):,}"
        lines.append(mean)
        if deviation is not None:
            lines.append(f"standard deviation {_number(deviation)}")
            lines.append(f"from {_number(low)} to {_number(high)}")
    if bad := matrix.bad.get(cell):
        lines.append(f"{bad:,} without this number")
    return "<br>".join(lines)


def _label(text: str) -> str:
    return plain(text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…")


def _lines(text: str) -> list[str]:
    """A column's label in lines, broken where words end; escaped, as `_label` is."""
    short = text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"
    lines = [""]
    for word in re.findall(r"[^-_ /]*[-_ /]|[^-_ /]+", short):
        if lines[-1] and len(lines[-1] + word) > LONGEST_LINE:
            lines.append("")
        lines[-1] += word
    return [plain(line.strip()) for line in lines]


def _number(value: float) -> str:
    return f"{value + 0.0:.3g}"
