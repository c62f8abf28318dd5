"""Where in a model a circuit lies: nodes and edges by layer, coloured by role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.model.wiring import node_kind, node_layer
from viz import theme
from viz.paper import canvas
from viz.paper.about import describe_origin
from viz.paper.heat_maps import ONE_COLUMN, layer_labels, layer_ticks

PANEL = 1.15
GUTTER = 0.5
LABEL_ROOM = 0.16
SCORELESS = ("nodes", "edges from the layer's nodes")
MASS = "score mass of these edges"


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """What lies in each layer, by role; place 0 is the token embedding, l + 1 layer l.

    An edge counts where it starts, so that its layer and role are those of the node that writes.
    Roles are a circuit's labels; a node without one counts by its kind. `mass` sums |score|, in
    units of the metric; None for a circuit without scores.
    """

    roles: tuple[str, ...]
    nodes: Float[np.ndarray, "role place"]
    edges: Float[np.ndarray, "role place"]
    mass: Float[np.ndarray, "role place"] | None

    def panels(self) -> dict[str, Float[np.ndarray, "role place"]]:
        """The counts by name, in the order in which they are drawn."""
        shown = dict(zip(SCORELESS, (self.nodes, self.edges), strict=True))
        return shown if self.mass is None else {**shown, MASS: self.mass}


def count_layers(circuit: Circuit) -> LayerCounts:
    """Nodes, edges and score mass of a circuit by layer and role; logits have neither."""
    wiring = circuit.wiring
    names = [*wiring.src_names, *(n for n in circuit.nodes() if node_kind(n) == "kv")]
    role_of = {name: circuit.roles.get(name) or node_kind(name) for name in names}
    present = {role_of[node] for node in circuit.nodes() if node in role_of}
    styles = [*theme.ROLES, *theme.KINDS]
    known = [role for role in styles if role in present]
    roles = (*known, *sorted(present - set(known)))
    shape = (len(roles), wiring.n_layers + 1)
    nodes, edges, mass = (np.zeros(shape) for _ in range(3))

    def place(name: str) -> tuple[int, int]:
        layer = node_layer(name)
        return roles.index(role_of[name]), 0 if layer is None else layer + 1

    for name in circuit.nodes():
        if name != "logits":
            nodes[place(name)] += 1
    for edge in circuit.edges():
        here = place(wiring.src_names[wiring.edge_src[edge]])
        edges[here] += 1
        if circuit.scores is not None:
            mass[here] += abs(float(circuit.scores.values[edge]))
    return LayerCounts(roles, nodes, edges, None if circuit.scores is None else mass)


def draw_layers(
    circuit: Circuit,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """Histograms by layer, stacked by role: nodes, edges by the node that writes, score mass.

    Errors: OptionError for another suffix or an empty circuit, StoreError where the file cannot be
    written.
    """
    canvas.check_suffix(path)
    if not circuit.n_edges:
        raise OptionError("the circuit has no edge: nothing to draw")
    counts = count_layers(circuit)
    with canvas.paper_style():
        panels = counts.panels()
        stacked = width < ONE_COLUMN
        across = (width - 0.1 - (1 if stacked else len(panels)) * GUTTER) / (
            1 if stacked else len(panels)
        )
        caption = canvas.noted(_caption(circuit), width, notes)
        below = 0.1 + 0.13 * len(caption)
        legend = {role_name(role, counts.roles): role_style(role) for role in counts.roles}
        columns = canvas.legend_columns(list(legend), width)
        foot = below + 0.42 + 0.15 * -(-len(legend) // columns)
        above = 0.45 if title else 0.24
        rows = len(panels) if stacked else 1
        height = above + rows * PANEL + (rows - 1) * 0.42 + foot
        figure = canvas.new_figure(width, height)
        for index, (name, values) in enumerate(panels.items()):
            down, right = (index, 0) if stacked else (0, index)
            left = GUTTER - 0.06 + right * (across + GUTTER)
            low = height - above - PANEL - down * (PANEL + 0.42)
            axes = figure.add_axes((left / width, low / height, across / width, PANEL / height))
            _bars(axes, counts.roles, values, across)
            axes.set_title(name)
            axes.set_xlabel("layer" if down == rows - 1 else "")
        patches = [
            Patch(facecolor=style.fill, edgecolor=style.line, linewidth=0.6, label=name)
            for name, style in legend.items()
        ]
        canvas.legend(figure, patches, below / height, columns, handlelength=2.0)
        canvas.page_text(figure, title, caption)
        heading = title or "Nodes and edges by layer"
        return canvas.save(figure, path, heading, circuit.provenance)


def _caption(circuit: Circuit) -> str:
    parts = [*describe_origin(circuit), f"{circuit.n_edges:,} edges"]
    parts.append("an edge counts where it starts")
    return canvas.joined(parts)


def role_style(role: str) -> theme.NodeStyle:
    """Style of a role or kind; a label that is not known looks like a head."""
    return theme.ROLES.get(role) or theme.KINDS.get(role) or theme.KINDS["head"]


def _bars(
    axes: Axes, roles: Sequence[str], values: Float[np.ndarray, "role place"], across: float
) -> None:
    n_layers = values.shape[1] - 1
    base = np.zeros(n_layers + 1)
    for role, counts in zip(roles, values, strict=True):
        style, there = role_style(role), counts > 0
        axes.bar(
            np.flatnonzero(there) - 1,
            counts[there],
            bottom=base[there],
            width=0.78,
            color=style.fill,
            edgecolor=style.line,
            linewidth=0.6 if n_layers <= 24 else 0.3,
        )
        base = base + counts
    most = min(12, max(2, int(across / LABEL_ROOM) - 1))
    if values[:, 0].any():
        axes.set_xticks(*layer_labels(n_layers, most, "in", across / (n_layers + 1.4)))
    else:
        axes.set_xticks(layer_ticks(n_layers, most))
    axes.set_xlim(-1.7, n_layers - 0.3)
    axes.set_ylim(0, 1.06 * base.max() or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=bool(base.max() >= 3)))
    if base.max() >= 1000:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(axis="x", length=0)


def role_name(role: str, roles: Sequence[str]) -> str:
    """A role's name in a legend that names `roles`."""
    labelled = any(each in theme.ROLES for each in roles)
    names = {"head": "other head" if labelled else "attention head", "input": "input (in)"}
    known = role in theme.ROLES or role in theme.KINDS
    return names.get(role, role_style(role).legend) if known else canvas.token(role)
