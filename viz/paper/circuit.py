"""The picture of a circuit for a paper: result in, file out (SVG, PDF or PNG).

The page is one axes whose unit is the inch, so that a box, a gap and a letter keep their size
whatever the circuit; `viz.layout` says where things are, this module what they look like. No text
is smaller than `canvas.SMALLEST` points, and a node's name never leaves its box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.path import Path as Curve

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.model.wiring import node_kind
from viz import theme
from viz.asked import question
from viz.groups import Groups
from viz.layout import Layout, Placement, lay_out
from viz.paper import about, canvas
from viz.paper.legend import (
    GAP,
    SMALL,
    EdgeLook,
    Entry,
    draw_box,
    draw_legend,
    legend_rows,
    node_look,
    score_look,
    write,
)
from viz.routing import HALF_HEIGHT, HALF_WIDTH
from viz.strongest import FEW

LAYER = 0.56  # inches from layer to layer where the page is high enough
LOWEST_LAYER = 0.26  # at which a box is high enough for the smallest letters
COLUMN = 0.62  # inches from column to column where the page is wide enough
MAX_HEIGHT = 8.6
SIDE = 0.42  # left of the drawing, for the layers' numbers
HALO = 0.8
BEHIND = 0.022
"""Inches by which the box behind a group's is moved."""
LABEL = 6.0
FOLDED = 5.5
NARROWEST_COLUMN = 0.36
"""Inches a column needs to hold a label such as `a11.h10`."""


@dataclass(frozen=True)
class _Page:
    """Layout units to inches on the page."""

    axes: Axes
    left: float
    bottom: float
    column: float
    layer: float
    origin: tuple[float, float]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        scale = np.array([self.column, self.layer])
        corner = np.array([self.left, self.bottom])
        return (points - np.array(self.origin)) * scale + corner


@dataclass(frozen=True, eq=False)
class Sheet:
    """What a page shows, and in which sizes: units of the layout in inches, letters in points.

    `short` names leave the layer out, which the row says; `names` of boxes are "" where there is no
    room for readable letters.
    """

    circuit: Circuit
    layout: Layout
    look: EdgeLook
    caption: list[tuple[str, str]]
    legend: list[list[Entry]]
    width: float
    title: str | None
    column: float
    layer: float
    label: float
    names: list[str]

    @property
    def heading(self) -> float:
        """Inches above the drawing."""
        return 0.28 if self.title else 0.1

    @property
    def foot(self) -> float:
        """Inches below the drawing."""
        return GAP + 0.13 * len(self.caption) + 0.05 + 0.17 * len(self.legend) + 0.1

    @property
    def height(self) -> float:
        """Inches from top to bottom."""
        _, _, low, high = self.layout.bounds
        return self.heading + self.foot + self.layer * (high - low)

    @property
    def readable(self) -> bool:
        """Whether every node has its name, and the page is no higher than a page."""
        return all(self.names) and self.height <= MAX_HEIGHT + 1e-6


def draw_circuit(
    circuit: Circuit,
    path: str | Path,
    title: str | None = None,
    max_edges: int | None = None,
    width: float = theme.DOUBLE_COLUMN,
    placement: Placement | str = Placement.COMPACT,
    groups: Groups | None = None,
    notes: bool = True,
    only: Bool[np.ndarray, " edge"] | None = None,
) -> Path:
    """Draw a circuit's strongest edges, layer by layer, and return the path.

    By default at most 60 edges are drawn, and no more than a page of this width has room for with
    readable names; `max_edges` draws so many, and `only` those of its edges that it holds and no
    others, on a higher page if need be. `width` is the page's,
    in inches (`theme.SINGLE_COLUMN` or `theme.DOUBLE_COLUMN`). `groups` are nodes by the name of
    the box that stands for them (`viz.groups`). Unless `notes` is off, a caption says what was
    asked, of which model, how faithful the whole circuit is on what, and how many edges are drawn.
    Errors: OptionError for another suffix than .svg, .pdf, .png, for `max_edges` below 1 or beside
    `only`, or for a group's node that there is not; StoreError where the file cannot be written.
    """
    canvas.check_suffix(path)
    asked = edges_asked(max_edges, only)

    def sheet(most: int) -> Sheet:
        layout = lay_out(circuit, most, placement, columns_in(width), groups, only=only)
        told = about.describe(circuit, layout)
        return compose(circuit, layout, score_look(circuit, layout), told, width, title, notes)

    with canvas.paper_style():
        found = fitted(sheet, asked)
        shown = {box.name for box in found.layout.boxes.values()}
        if missing := [name for name in groups or {} if name not in shown]:
            raise OptionError(
                f"no node of the group {missing[0]!r} is among the {found.layout.n_drawn} edges "
                "drawn; ask for more edges"
            )
        return canvas.save(drawn(found), path, title or "Knowledge circuit", circuit.provenance)


def edges_asked(max_edges: int | None, only: Bool[np.ndarray, " edge"] | None) -> int | None:
    """How many edges are asked for, by their number or one by one; OptionError for both at once."""
    if only is None:
        return max_edges
    if max_edges is not None:
        raise OptionError("give the number of edges or the edges themselves, not both")
    return int(only.sum())


def columns_in(width: float) -> int:
    """How many columns of nodes a page of so many inches holds."""
    return max(4, int((width - SIDE - GAP) / NARROWEST_COLUMN) - 1)


def fitted(sheet: Callable[[int], Sheet], max_edges: int | None) -> Sheet:
    """The sheet of so many edges, or, where none are asked for, of as many up to 60 as fit."""
    most = FEW if max_edges is None else max_edges
    found = sheet(most)
    while max_edges is None and not found.readable and most > 1:
        most = most * 9 // 10
        found = sheet(most)
    return found


def compose(
    circuit: Circuit,
    layout: Layout,
    look: EdgeLook,
    told: str,
    width: float,
    title: str | None,
    notes: bool,
) -> Sheet:
    """Sizes and texts of a page; `told` is the caption's sentence on what is drawn."""
    left, right, low, high = layout.bounds
    column = min(COLUMN, (width - SIDE - GAP) / (right - left))
    legend = legend_rows(circuit, layout, look, width - 2 * GAP)
    label, names = _names(layout, column)
    lines = [(line, theme.INK) for line in _wrapped(_key(layout, names), width)]
    if notes:
        lines += [(line, theme.INK) for line in _wrapped([question(circuit)], width)]
        reading = about.READING + f" {about.FOLDED}" * bool(layout.folds)
        reading += "" if all(names) else f" {about.UNNAMED}"
        lines += [(line, theme.MUTED) for line in _wrapped([told, reading], width)]
    sheet = Sheet(circuit, layout, look, lines, legend, width, title, column, LAYER, label, names)
    room = (MAX_HEIGHT - sheet.heading - sheet.foot) / (high - low)
    layer = min(LAYER, max(LOWEST_LAYER, room))
    return replace(sheet, layer=layer, label=min(label, 72 * 2 * HALF_HEIGHT * layer * 0.92))


def _wrapped(texts: Sequence[str], width: float) -> list[str]:
    return [
        line
        for text in texts
        for line in canvas.wrapped(canvas.visible(text), SMALL, width - 2 * GAP)
    ]


def _names(layout: Layout, column: float) -> tuple[float, list[str]]:
    """Size of the nodes' names in points, and the names: whole, short, or none."""
    inner = [n for n in layout.nodes if n not in ("input", "logits") and n not in layout.boxes]
    room, least = 2 * HALF_WIDTH * column * 0.94, canvas.SMALLEST
    size, show = LABEL, dict.fromkeys(inner, "")
    for short in (False, True):
        names = {n: n.partition(".")[2] or n if short else n for n in inner}
        widest = max((canvas.text_width(name, LABEL) for name in names.values()), default=0.0)
        if LABEL * room >= least * widest:
            size, show = min(LABEL, LABEL * room / widest) if widest else LABEL, names
            break
    for place, (node, box) in enumerate(layout.boxes.items()):
        fits = canvas.text_width(box.name, size) <= room
        letter = chr(ord("A") + place) if place < 26 else f"{place + 1}"
        show[node] = canvas.visible(box.name) if fits else letter
    return size, [show.get(node, node) for node in layout.nodes]


def _key(layout: Layout, names: Sequence[str]) -> list[str]:
    """What the boxes of groups stand for."""
    shown = dict(zip(layout.nodes, names, strict=True))
    return [
        f"{shown[node]}: {'' if shown[node] == box.name else f'{box.name} = '}"
        f"{', '.join(box.members)}"
        for node, box in layout.boxes.items()
    ]


def drawn(sheet: Sheet) -> Figure:
    """The page; for use within `canvas.paper_style()`."""
    layout, width, height, foot = sheet.layout, sheet.width, sheet.height, sheet.foot
    left, right, low, _ = layout.bounds
    slack = width - SIDE - GAP - sheet.column * (right - left)
    figure = canvas.new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    corner = SIDE + max(0.0, slack) / 2
    page = _Page(axes, corner, foot, sheet.column, sheet.layer, (left, low))
    _draw_rows(page, layout, right - left)
    _draw_edges(page, layout, sheet.look)
    _draw_nodes(page, sheet)
    draw_legend(axes, sheet.legend, foot - 0.1)
    for index, (line, colour) in enumerate(reversed(sheet.caption)):
        write(axes, GAP, GAP + 0.13 * index, line, SMALL, colour, va="bottom")
    if sheet.title:
        shown = canvas.visible(sheet.title)
        write(axes, GAP, height - GAP, shown, 9.0, theme.INK, va="top", weight="bold")
    return figure


def _draw_rows(page: _Page, layout: Layout, across: float) -> None:
    for index, row in enumerate(layout.rows):
        corner, top = page(np.array([[page.origin[0], row.low], [page.origin[0], row.high]]))
        if index % 2 == 0:
            box = Rectangle(
                (corner[0], corner[1]),
                across * page.column,
                top[1] - corner[1],
                facecolor=theme.STRIPE,
                edgecolor="none",
            )
            page.axes.add_patch(box)
        middle = (corner[1] + top[1]) / 2
        write(page.axes, corner[0] - 0.06, middle, f"{row.layer}", SMALL, theme.MUTED, ha="right")
    if layout.rows:
        x, y = page(np.array([page.origin[0], layout.y[0]]))
        write(page.axes, x - 0.06, y, "layer", SMALL, theme.MUTED, ha="right")
    for fold in layout.folds:
        ends = page(np.array([[page.origin[0], fold.y], [page.origin[0] + across, fold.y]]))
        line = Line2D(*ends.T, color=theme.MUTED, linewidth=0.7, linestyle=(0, (1, 2.4)), zorder=1)
        page.axes.add_line(line)
        x, y = ends[0]
        write(page.axes, x - 0.06, y, fold.text, FOLDED, theme.MUTED, ha="right")


def _draw_edges(page: _Page, layout: Layout, look: EdgeLook) -> None:
    shared = len(layout.shared_curves)
    _add_curves(page, layout.shared_curves, [theme.SHARED] * shared, np.full(shared, 0.9))
    _add_curves(page, layout.curves, look.styles, look.widths, look.strengths)


def _add_curves(
    page: _Page,
    curves: np.ndarray,
    styles: list[theme.EdgeStyle],
    widths: np.ndarray,
    strengths: np.ndarray | None = None,
) -> None:
    """Curves in the given order, each on a strip of paper that parts it from those below."""
    if not len(curves):
        return
    codes = [Curve.MOVETO] + [Curve.CURVE4] * 9
    paths = [Curve(points, codes) for points in page(curves)]
    shares = np.ones(len(paths)) if strengths is None else strengths
    colours = np.ones((len(paths), 2, 3))
    for style in set(styles):
        chosen = np.array([other == style for other in styles])
        colours[chosen, 1] = theme.faded(style.colour, shares[chosen])
    dashes = [(0.0, style.dash) if style.dash else "solid" for style in styles]
    page.axes.add_collection(
        PathCollection(
            [path for path in paths for _ in range(2)],
            facecolors="none",
            edgecolors=colours.reshape(-1, 3),
            linewidths=np.stack([widths + HALO, widths], axis=1).ravel(),
            linestyles=[pattern for dash in dashes for pattern in ("solid", dash)],
            capstyle="butt",
            zorder=2,
        )
    )


def _draw_nodes(page: _Page, sheet: Sheet) -> None:
    layout, box_height = sheet.layout, 2 * HALF_HEIGHT * page.layer
    places = zip(layout.nodes, sheet.names, layout.x, layout.y, layout.half_width, strict=True)
    for node, name, x, y, half in places:
        style = node_look(sheet.circuit, layout, node)
        square = node_kind(node) in ("mlp", "kv")
        centre = page(np.array([x, y]))
        extent = np.array([half * page.column, box_height / 2])
        if node in layout.boxes:  # a second box behind: more than one node stands here
            behind = centre - extent + np.array([BEHIND, -BEHIND])
            draw_box(page.axes, behind, 2 * extent, style, square)
        draw_box(page.axes, centre - extent, 2 * extent, style, square)
        write(page.axes, centre[0], centre[1], name, sheet.label, style.text, ha="center", zorder=4)
