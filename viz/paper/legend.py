"""What a circuit's edges and nodes look like on paper, and the legend that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from circuits.base.choices import Meaning
from circuits.graph.circuit import Circuit
from circuits.model.wiring import node_kind
from viz import theme
from viz.layout import Layout
from viz.paper import canvas

GAP = 0.08
SMALL = 6.5
Entry = tuple[str, theme.NodeStyle | theme.EdgeStyle, float]
"""Legend text, style, and for an edge its line width in points."""


@dataclass(frozen=True, eq=False)
class EdgeLook:
    """How the drawn edges look, in the layout's order, and the legend's entries about them."""

    styles: list[theme.EdgeStyle]
    widths: np.ndarray
    strengths: np.ndarray
    legend: list[Entry]


def score_look(circuit: Circuit, layout: Layout) -> EdgeLook:
    """Colour and line style say the sign of an edge's score, width and strength its size.

    Where spans are told apart, the colour says which, and the line style alone the sign.
    """
    legend: list[Entry] = []
    if circuit.wiring.spans:
        return _span_look(circuit, layout)
    if circuit.scores is None:
        n = len(layout.edges)
        return EdgeLook([theme.UNSCORED] * n, np.full(n, 0.7), np.full(n, 0.7), legend)
    scores = layout.totals(circuit.scores.values)
    if len(scores):
        present = [sign for sign, any_of in ((1, scores >= 0), (-1, scores < 0)) if any_of.any()]
        kinds = dict.fromkeys(theme.edge_style(sign, circuit.meaning) for sign in present)
        legend += [(style.legend, style, 1.4) for style in kinds]
        legend += size_legend(scores)
    return EdgeLook(
        [theme.edge_style(score, circuit.meaning) for score in scores.tolist()],
        theme.edge_widths(scores),
        theme.edge_strengths(scores),
        legend,
    )


def _span_look(circuit: Circuit, layout: Layout) -> EdgeLook:
    """A colour a span."""
    wiring = circuit.wiring
    places = wiring.edge_span[layout.edges].tolist()
    values = None if circuit.scores is None else layout.totals(circuit.scores.values)
    told = circuit.meaning != Meaning.SIZE
    signs: list[float | None] = [None] * len(places)
    if values is not None and told:
        signs = values.tolist()
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
        n = len(layout.edges)
        return EdgeLook(styles, np.full(n, 0.7), np.full(n, 0.7), legend)
    if told and (values < 0).any():
        negative = theme.edge_style(-1, circuit.meaning)
        dashed = theme.EdgeStyle(theme.UNSCORED.colour, negative.dash, negative.legend)
        legend.append((dashed.legend, dashed, 1.4))
    legend += size_legend(values) if len(values) else []
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


def node_look(circuit: Circuit, layout: Layout, node: str) -> theme.NodeStyle:
    """A node's style; that of a group is its members' where they share one."""
    return layout.look(node, circuit.roles)


def draw_box(
    axes: Axes, corner: np.ndarray, extent: np.ndarray, style: theme.NodeStyle, square: bool
) -> None:
    """A node's box, with round ends or nearly square."""
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


def legend_rows(
    circuit: Circuit, layout: Layout, look: EdgeLook, width: float
) -> list[list[Entry]]:
    """What the picture uses and no more, broken into rows of at most `width` inches."""
    shown = [node for node in layout.nodes if node_look(circuit, layout, node) != theme.GROUP]
    roles = {circuit.roles.get(node, "") for node in shown}
    kinds = {node_kind(node) for node in shown if circuit.roles.get(node) not in theme.ROLES}
    nodes: list[Entry] = [
        (style.legend, style, 0.0) for role, style in theme.ROLES.items() if role in roles
    ]
    unlabelled = theme.KINDS["head"]
    name = "other head" if nodes else unlabelled.legend
    nodes += [(name, unlabelled, 0.0)] * ("head" in kinds)
    for kind in ("kv", "mlp"):
        nodes += [(theme.KINDS[kind].legend, theme.KINDS[kind], 0.0)] * (kind in kinds)
    nodes += [(theme.GROUP.legend, theme.GROUP, 0.0)] * (len(shown) < len(layout.nodes))
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


def draw_legend(axes: Axes, rows: list[list[Entry]], top: float) -> None:
    """Draw the rows, the first of them at `top`."""
    for index, row in enumerate(rows):
        x, y = GAP, top - 0.17 * (index + 0.5)
        for entry in row:
            text, style, line = entry
            if isinstance(style, theme.NodeStyle):
                square = style in (theme.KINDS["mlp"], theme.KINDS["kv"])
                draw_box(axes, np.array([x, y - 0.045]), np.array([0.2, 0.09]), style, square)
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
            write(axes, x + 0.28, y, text, SMALL, theme.INK)
            x += _entry_width(entry)


def write(
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
    """Text, as it is and not as a formula."""
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
