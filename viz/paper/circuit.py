"""The picture of a circuit for a paper: result in, file out (SVG, PDF or PNG).

The page is one axes whose unit is the inch, so that a box, a gap and a letter keep their size
whatever the circuit; `viz.layout` says where things are, this module what they look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.path import Path as Curve

from circuits.graph.circuit import Circuit, node_kind
from viz import theme
from viz.layout import Layout, Placement, lay_out
from viz.paper import canvas
from viz.routing import HALF_HEIGHT, HALF_WIDTH

LAYER = 0.56  # inches from layer to layer where the page is high enough
COLUMN = 0.62  # inches from column to column where the page is wide enough
MAX_HEIGHT = 8.6
SIDE = 0.42  # left of the drawing, for the layers' numbers
GAP = 0.08
HALO = 0.8
LABEL = 6.0
SMALL = 6.5
READING = "Edges rise. A head reads queries at its left, keys in the middle, values at its right."
NARROWEST_COLUMN = 0.36
"""Inches a column needs to hold a label such as `a11.h10`."""


Entry = tuple[str, theme.NodeStyle | theme.EdgeStyle, float]
"""Legend text, style, and for an edge its line width in points."""


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
class EdgeLook:
    """How the drawn edges look, in the layout's order, and the legend's entries about them."""

    styles: list[theme.EdgeStyle]
    widths: np.ndarray
    strengths: np.ndarray
    legend: list[Entry]


def draw_circuit(
    circuit: Circuit,
    path: str | Path,
    title: str | None = None,
    max_edges: int = 150,
    width: float = theme.DOUBLE_COLUMN,
    placement: Placement | str = Placement.COMPACT,
) -> Path:
    """Draw a circuit's strongest `max_edges` edges, layer by layer, and return the path.

    `width` is the page's, in inches (`theme.SINGLE_COLUMN` or `theme.DOUBLE_COLUMN`). The caption
    says how many of the kept edges are drawn. Errors: OptionError for another suffix than .svg,
    .pdf, .png or for `max_edges` below 1; StoreError where the file cannot be written.
    """
    canvas.check_suffix(path)
    layout = lay_out(circuit, max_edges, placement, columns_in(width))
    with canvas.paper_style():
        look, caption = score_look(circuit, layout), describe(circuit, layout)
        figure = drawn(circuit, layout, look, caption, width, title)
        return canvas.save(figure, path, title or "Knowledge circuit", circuit.provenance)


def columns_in(width: float) -> int:
    """How many columns of nodes a page of so many inches holds."""
    return max(4, int((width - SIDE - GAP) / NARROWEST_COLUMN) - 1)


def drawn(
    circuit: Circuit,
    layout: Layout,
    look: EdgeLook,
    about: str,
    width: float,
    title: str | None,
) -> Figure:
    """The page; for use within `canvas.paper_style()`. `about` is the caption's first sentence."""
    left, right, low, high = layout.bounds
    caption = canvas.wrapped(about, SMALL, width - 2 * GAP)
    caption += canvas.wrapped(READING, SMALL, width - 2 * GAP)
    legend = _legend_rows(circuit, layout, look, width - 2 * GAP)
    heading = 0.28 if title else 0.1
    foot = GAP + 0.13 * len(caption) + 0.05 + 0.17 * len(legend) + 0.1
    column = min(COLUMN, (width - SIDE - GAP) / (right - left))
    layer = min(LAYER, max(0.2, (MAX_HEIGHT - heading - foot) / (high - low)))
    slack = width - SIDE - GAP - column * (right - left)
    height = heading + foot + layer * (high - low)

    figure = canvas.new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    page = _Page(axes, SIDE + max(0.0, slack) / 2, foot, column, layer, (left, low))
    _draw_rows(page, layout, right - left)
    _draw_edges(page, layout, look)
    _draw_nodes(page, circuit, layout)
    _draw_legend(axes, legend, foot - 0.1)
    for index, line in enumerate(reversed(caption)):
        _write(axes, GAP, GAP + 0.13 * index, line, SMALL, theme.MUTED, va="bottom")
    if title:
        shown = canvas.visible(title)
        _write(axes, GAP, height - GAP, shown, 9.0, theme.INK, va="top", weight="bold")
    return figure


def describe(circuit: Circuit, layout: Layout) -> str:
    """The caption: model, relation, method, edges drawn, faithfulness where it is known."""
    origin, parts = circuit.provenance, describe_origin(circuit)
    if layout.n_drawn == layout.n_kept:
        parts.append(f"{layout.n_kept:,} edges")
    else:
        parts.append(f"strongest {layout.n_drawn:,} of {layout.n_kept:,} edges")
    if isinstance(origin.get("faithfulness"), int | float):
        where = f" on {on}" if (on := origin.get("faithfulness_on")) else ""
        parts.append(f"faithfulness {origin['faithfulness']:.2f}{where}")
    return canvas.joined(parts)


def describe_origin(circuit: Circuit) -> list[str]:
    """Model, relation and method, as far as they are known."""
    origin = circuit.provenance
    parts = canvas.asked(origin)
    named = [str(origin[key]) for key in ("method", "metric") if key in origin]
    if "steps" in origin:
        named.append(f"({origin['steps']} steps)")
    return [*parts, " ".join(named)] if named else parts


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
        _write(page.axes, corner[0] - 0.06, middle, f"{row.layer}", SMALL, theme.MUTED, ha="right")
    if layout.rows:
        x, y = page(np.array([page.origin[0], layout.y[0]]))
        _write(page.axes, x - 0.06, y, "layer", SMALL, theme.MUTED, ha="right")


def score_look(circuit: Circuit, layout: Layout) -> EdgeLook:
    """Colour and line style say the sign of an edge's score, width and strength its size.

    Where spans are told apart, the colour says which, and the line style alone the sign.
    """
    legend: list[Entry] = []
    if circuit.wiring.spans:
        return _span_look(circuit, layout)
    if circuit.scores is None:
        n = layout.n_drawn
        return EdgeLook([theme.UNSCORED] * n, np.full(n, 0.7), np.full(n, 0.7), legend)
    scores = circuit.scores.values[layout.edges]
    if layout.n_drawn:
        legend += [(theme.SUPPORTS.legend, theme.SUPPORTS, 1.4)] * bool((scores >= 0).any())
        legend += [(theme.OPPOSES.legend, theme.OPPOSES, 1.4)] * bool((scores < 0).any())
        legend += size_legend(scores)
    return EdgeLook(
        [theme.edge_style(score) for score in scores.tolist()],
        theme.edge_widths(scores),
        theme.edge_strengths(scores),
        legend,
    )


def _span_look(circuit: Circuit, layout: Layout) -> EdgeLook:
    """A colour a span."""
    wiring = circuit.wiring
    places = wiring.edge_span[layout.edges].tolist()
    values = None if circuit.scores is None else circuit.scores.values[layout.edges]
    signs: list[float | None] = [None] * len(places) if values is None else values.tolist()
    styles = [
        theme.span_style(place, wiring.spans[place], sign)
        for place, sign in zip(places, signs, strict=True)
    ]
    last = len(theme.SPANS) - 1
    shown = sorted({min(place, last) for place in places})
    legend: list[Entry] = []
    for place in shown:
        rest = place == last and wiring.n_spans > len(theme.SPANS)
        name = "further spans" if rest else canvas.token(wiring.spans[place])
        legend.append((name, theme.span_style(place, name, None), 1.4))
    if values is None:
        n = layout.n_drawn
        return EdgeLook(styles, np.full(n, 0.7), np.full(n, 0.7), legend)
    if (values < 0).any():
        dashed = theme.EdgeStyle(theme.UNSCORED.colour, theme.OPPOSES.dash, theme.OPPOSES.legend)
        legend.append((dashed.legend, dashed, 1.4))
    legend += size_legend(values) if layout.n_drawn else []
    widths, strengths = theme.edge_widths(values), theme.edge_strengths(values)
    return EdgeLook(styles, widths, strengths, legend)


def size_legend(scores: np.ndarray) -> list[Entry]:
    """Sample lines of the largest |score| and of a tenth of it."""
    largest = float(np.abs(scores).max())
    samples: list[Entry] = []
    for share in (1.0, 0.1):
        line = theme.edge_widths(np.array([share * largest]), largest)[0]
        samples.append((f"|score| {share * largest:.2g}", theme.UNSCORED, float(line)))
    return samples


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


def _draw_nodes(page: _Page, circuit: Circuit, layout: Layout) -> None:
    box_width = 2 * HALF_WIDTH * page.column
    box_height = 2 * HALF_HEIGHT * page.layer
    heads = [node for node in layout.nodes if node_kind(node) in ("head", "kv")]
    size = min(LABEL, 72 * box_height * 0.62)
    widest = max((canvas.text_width(node, size) for node in heads), default=0.0)
    # The row says the layer; where the boxes are too narrow, a label need not repeat it.
    short = widest * 4.6 / size > box_width * 0.94
    if short:
        widest = max(canvas.text_width(node.partition(".")[2], size) for node in heads)
    size = min(size, size * box_width * 0.94 / widest) if widest else size
    for node, x, y, half in zip(layout.nodes, layout.x, layout.y, layout.half_width, strict=True):
        kind = node_kind(node)
        style = theme.node_style(kind, circuit.roles.get(node, ""))
        centre = page(np.array([x, y]))
        extent = np.array([half * page.column, box_height / 2])
        _box(page.axes, centre - extent, 2 * extent, style, square=kind in ("mlp", "kv"))
        label = node.partition(".")[2] if short and kind in ("head", "kv") else node
        _write(page.axes, centre[0], centre[1], label, size, style.text, ha="center", zorder=4)


def _box(
    axes: Axes, corner: np.ndarray, extent: np.ndarray, style: theme.NodeStyle, square: bool
) -> None:
    rounding = 0.012 if square else 0.45 * min(extent)
    axes.add_patch(
        FancyBboxPatch(
            tuple(corner),
            *extent,
            boxstyle=f"round,pad=0,rounding_size={rounding}",
            facecolor=style.fill,
            edgecolor=style.line,
            linewidth=0.8,
            zorder=3,
        )
    )


def _legend_rows(
    circuit: Circuit, layout: Layout, look: EdgeLook, width: float
) -> list[list[Entry]]:
    """What the picture uses and no more, broken into rows of at most `width` inches."""
    roles = {circuit.roles.get(node, "") for node in layout.nodes}
    kinds = {node_kind(node) for node in layout.nodes if circuit.roles.get(node) not in theme.ROLES}
    nodes: list[Entry] = [
        (style.legend, style, 0.0) for role, style in theme.ROLES.items() if role in roles
    ]
    unlabelled = theme.KINDS["head"]
    name = "other head" if nodes else unlabelled.legend
    nodes += [(name, unlabelled, 0.0)] * ("head" in kinds)
    for kind in ("kv", "mlp"):
        nodes += [(theme.KINDS[kind].legend, theme.KINDS[kind], 0.0)] * (kind in kinds)
    edges = list(look.legend)
    if layout.shared:
        edges.append((theme.SHARED.legend, theme.SHARED, 0.9))
    rows: list[list[Entry]] = []
    for group in (nodes, edges):
        rows.append([])
        for entry in group:
            if rows[-1] and sum(map(_entry_width, [*rows[-1], entry])) > width:
                rows.append([])
            rows[-1].append(entry)
    return [row for row in rows if row]


def _entry_width(entry: Entry) -> float:
    return 0.28 + canvas.text_width(entry[0], SMALL) + 0.16


def _draw_legend(axes: Axes, rows: list[list[Entry]], top: float) -> None:
    for index, row in enumerate(rows):
        x, y = GAP, top - 0.17 * (index + 0.5)
        for entry in row:
            text, style, line = entry
            if isinstance(style, theme.NodeStyle):
                square = style in (theme.KINDS["mlp"], theme.KINDS["kv"])
                _box(axes, np.array([x, y - 0.045]), np.array([0.2, 0.09]), style, square)
            else:
                axes.add_line(
                    Line2D(
                        [x, x + 0.22],
                        [y, y],
                        color=style.colour,
                        linewidth=line,
                        linestyle="solid" if style.dash is None else (0.0, style.dash),
                        dash_capstyle="butt",
                    )
                )
            _write(axes, x + 0.28, y, text, SMALL, theme.INK)
            x += _entry_width(entry)


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str,
    ha: str = "left",
    va: str = "center_baseline",
    weight: str = "normal",
    zorder: float = 5,
) -> None:
    axes.text(
        x,
        y,
        text,
        size=size,
        color=colour,
        ha=ha,
        va=va,
        weight=weight,
        zorder=zorder,
        parse_math=False,
    )
