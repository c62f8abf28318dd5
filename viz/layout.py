"""Where the nodes and edges of a circuit's picture lie; one layout for screen and paper.

1. *Choose*: the strongest edges that lie on a path from input to logits (`viz.strongest`), or
   those that are asked for.
2. *Place*: the input is a bar at the bottom and the logits one at the top; each layer is a row of
   its heads in columns by index, its shared key-value heads below them and its MLP above them in a
   column of its own on the right. Columns in which nothing is drawn take no room, such layers are
   folded. Named groups are one box each (`viz.groups`).
3. *Route*: an edge leaves its source at the top and enters its destination from below (queries
   left, keys in the middle, values right), as a smooth curve that only rises (`viz.routing`).

Units: one column across, one layer up. Nothing here knows a plotting library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.base.choices import Choice
from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from viz import theme
from viz.groups import Box, Groups, arrange, check_groups
from viz.routing import HALF_HEIGHT, HALF_WIDTH, Obstacles, Router
from viz.strongest import FEW, Nodes, nodes_of, strongest

LEVEL = 0.5  # from heads to the MLP above them
LAYER_GAP = 0.85  # from a layer's last level to the next layer's first
SKIPPED_GAP = 0.3  # more of it where layers without a drawn node lie between
MLP_GAP = 1.3  # from the last head's column to the MLPs'
BAR_MARGIN = 0.72
BESIDE = 0.14  # room in which the edges of several spans lie side by side


class Placement(Choice):
    """Whether unused rows and columns are closed, or a node's place depends on the wiring only."""

    COMPACT = "compact"
    FIXED = "fixed"


@dataclass(frozen=True)
class Row:
    """A layer's stripe of the picture, from `low` to `high`."""

    layer: int
    low: float
    high: float


@dataclass(frozen=True)
class Fold:
    """Layers `first` to `last`, in which nothing is drawn, folded at the height `y`."""

    first: int
    last: int
    y: float

    @property
    def text(self) -> str:
        """The layers, as 3 or 3–8."""
        return f"{self.first}" if self.first == self.last else f"{self.first}–{self.last}"


@dataclass(frozen=True, eq=False)
class Layout:
    """Positions of what is drawn of a circuit.

    `edges` are canonical indices, weakest first so that the strong ones are drawn on top. A curve
    is three cubic Béziers end to end (ten control points), each rising from source to destination.
    `shared` lists key-value heads and the drawn heads they serve, with their curves.

    Where groups are drawn as boxes, `boxes` says which node each stands in for, a curve may be a
    bundle of edges, of which `edges` names the strongest, and `n_inside` edges run within a box.
    What a bundle is worth is the signed sum of its edges (`totals`). `picked` says that the edges
    were asked for one by one, and not for their strength.
    """

    nodes: tuple[str, ...]
    x: Float[np.ndarray, " node"]
    y: Float[np.ndarray, " node"]
    half_width: Float[np.ndarray, " node"]
    edges: Int[np.ndarray, " edge"]
    tail: Int[np.ndarray, " edge"]
    head: Int[np.ndarray, " edge"]
    curves: Float[np.ndarray, "edge 10 2"]
    shared: tuple[tuple[str, str], ...]
    shared_curves: Float[np.ndarray, "pair 10 2"]
    rows: tuple[Row, ...]
    n_columns: int
    n_kept: int
    bounds: tuple[float, float, float, float]
    folds: tuple[Fold, ...] = ()
    bundles: tuple[np.ndarray, ...] = ()
    boxes: Mapping[str, Box] = field(default_factory=dict)
    n_inside: int = 0
    picked: bool = False

    @property
    def n_drawn(self) -> int:
        """Number of edges drawn, those within the box of a group included."""
        return sum(map(len, self.bundles)) + self.n_inside

    def totals(self, values: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " curve"]:
        """A value of each curve from one of each canonical edge: that of a bundle is the sum."""
        return np.array([values[bundle].sum() for bundle in self.bundles], dtype=float)

    def meets(self, node: str) -> tuple[np.ndarray, np.ndarray]:
        """Canonical indices of the drawn edges into and out of a node or the box in its place."""
        at, none = self.nodes.index(node), np.zeros(0, dtype=np.int64)
        into, out = (
            np.concatenate([none, *(self.bundles[line] for line in np.flatnonzero(ends == at))])
            for ends in (self.head, self.tail)
        )
        return into, out

    def look(self, node: str, roles: Mapping[str, str]) -> theme.NodeStyle:
        """A node's style by its role or kind; of a box its members', where they share one."""
        return self.boxes.get(node, Box("", node, (node,))).look(roles)

    def position(self, node: str) -> tuple[float, float]:
        """Centre of a node; OptionError where it is not drawn."""
        if node not in self.nodes:
            raise OptionError(f"node {node!r} is not drawn")
        index = self.nodes.index(node)
        return float(self.x[index]), float(self.y[index])


def lay_out(
    circuit: Circuit,
    max_edges: int = FEW,
    placement: Placement | str = Placement.COMPACT,
    max_columns: int = 16,
    groups: Groups | None = None,
    sorts: Int[np.ndarray, " edge"] | None = None,
    only: Bool[np.ndarray, " edge"] | None = None,
) -> Layout:
    """Layout of a circuit's strongest edges (see `strongest`), or of those of `only`, all of them.

    Up to `max_columns` head indices get a column each; above that the heads of a row keep their
    order and lie as near to their column as that many columns allow. `Placement.FIXED` gives every
    head index and layer its place, drawn or not, so that pictures can be laid over each other.
    No curve touches the box of a node that is not one of its two ends, at any density.
    Nodes of `groups` are drawn as the box of their group; edges between the same two boxes become
    one curve, a span each where spans are told apart, and one for each of the `sorts` (a number of
    every canonical edge) where these are given. OptionError for a group's node that the model does
    not have.
    """
    wiring, nodes = circuit.wiring, nodes_of(circuit.wiring)
    check_groups(groups or {}, wiring)
    chosen = strongest(circuit, max_edges).kept if only is None else circuit.kept & only
    edges = np.flatnonzero(chosen)
    if circuit.scores is not None:
        edges = edges[np.argsort(np.abs(circuit.scores.values[edges]), kind="stable")]
    tail, head = nodes.of_src[wiring.edge_src[edges]], nodes.of_dst[wiring.edge_dst[edges]]
    stand, boxes = _stands(nodes, groups or {}, tail, head)
    tail, head = stand[tail], stand[head]
    n_inside = int((tail == head).sum())
    edges, tail, head = (each[tail != head] for each in (edges, tail, head))
    port = nodes.port[wiring.edge_dst[edges]]
    if sorts is None or not boxes:
        sorts = np.zeros(wiring.n_edges, dtype=np.int64)
    n_sorts = int(sorts.max(initial=0)) + 1
    place = wiring.edge_span[edges] * n_sorts + sorts[edges]
    bundles, strong = _bundles(tail, head, port, place)
    bundled = tuple(edges[bundle] for bundle in bundles)
    edges, tail, head, place = edges[strong], tail[strong], head[strong], place[strong]
    drawn = np.zeros(len(nodes.names), dtype=bool)
    drawn[np.concatenate([tail, head, [0, len(drawn) - 1]])] = True
    drawn[[nodes.names.index(box.node) for box in boxes]] = True
    placed, limit = {
        Placement.COMPACT: (drawn, max_columns),
        Placement.FIXED: (np.ones_like(drawn), wiring.n_heads),
    }[Placement.of(placement)]

    y, rows, folds = _heights(nodes, placed, wiring.n_layers)
    x, n_columns = _columns(nodes, placed, limit)
    mlp = (nodes.kinds == "mlp") & placed
    columns = np.arange(n_columns, dtype=float)
    if mlp.any():
        x[mlp] = n_columns - 1 + MLP_GAP
        columns = np.append(columns, n_columns - 1 + MLP_GAP)
    left, right = -BAR_MARGIN, columns[-1] + BAR_MARGIN
    half_width = np.full(len(drawn), HALF_WIDTH)
    bars = [0, len(drawn) - 1]
    x[bars], half_width[bars] = (left + right) / 2, (right - left) / 2

    # An edge that is kept in several spans is as many lines, each a little beside the other.
    beside = BESIDE * ((place + 0.5) / (wiring.n_spans * n_sorts) - 0.5)
    inner = drawn.copy()
    inner[bars] = False
    obstacles = Obstacles.of_boxes(x[inner], y[inner], left, right)
    router = Router(obstacles, columns, bottom=y[0], top=y[-1])
    pairs = np.stack([nodes.served[:, 0], stand[nodes.served[:, 1]]], axis=1)
    served = np.unique(pairs[drawn[pairs].all(axis=1)], axis=0).reshape(-1, 2)
    ids = np.flatnonzero(drawn)
    rank = np.cumsum(drawn) - 1
    return Layout(
        nodes=tuple(nodes.names[node] for node in ids),
        x=x[ids],
        y=y[ids],
        half_width=half_width[ids],
        edges=edges,
        tail=rank[tail],
        head=rank[head],
        curves=router.route(
            x[tail] + beside,
            y[tail],
            x[head] + nodes.port[wiring.edge_dst[edges]] + beside,
            y[head],
        ),
        shared=tuple((nodes.names[a], nodes.names[b]) for a, b in served.tolist()),
        shared_curves=router.route(
            x[served[:, 0]], y[served[:, 0]], x[served[:, 1]], y[served[:, 1]]
        ),
        rows=rows,
        n_columns=len(columns),
        n_kept=circuit.n_edges,
        bounds=(left, right, float(y[0] - HALF_HEIGHT), float(y[-1] + HALF_HEIGHT)),
        folds=folds,
        bundles=bundled,
        boxes={box.node: box for box in boxes},
        n_inside=n_inside,
        picked=only is not None,
    )


def _stands(
    nodes: Nodes, groups: Groups, tail: np.ndarray, head: np.ndarray
) -> tuple[Int[np.ndarray, " node"], list[Box]]:
    """Which node each is drawn as, and the boxes of the groups that have a drawn node."""
    stand = np.arange(len(nodes.names))
    drawn = np.zeros(len(stand), dtype=bool)
    drawn[np.concatenate([tail, head])] = True
    chosen = {
        name: np.flatnonzero(drawn & np.isin(nodes.names, list(members)))
        for name, members in groups.items()
    }
    if not any(map(len, chosen.values())):
        return stand, []
    level = np.select([nodes.kinds == "kv", nodes.kinds == "mlp"], [0, 2], 1)
    order = np.where(nodes.layer < 0, -1, 3 * nodes.layer + level)
    order[-1] = 3 * (int(nodes.layer.max()) + 1)
    pairs = nodes.served[drawn[nodes.served].all(axis=1)]
    found = arrange(
        chosen, order, np.concatenate([tail, pairs[:, 0]]), np.concatenate([head, pairs[:, 1]])
    )
    boxes = []
    for name, members, at in found:
        stand[members] = at
        boxes.append(Box(name, nodes.names[at], tuple(nodes.names[each] for each in members)))
    # A key-value head that serves one box alone is part of what the box reads.
    for kv in np.unique(pairs[:, 0]).tolist():
        heads = np.unique(stand[pairs[pairs[:, 0] == kv, 1]])
        if len(heads) == 1 and nodes.names[heads[0]] in {box.node for box in boxes}:
            stand[kv] = heads[0]
    return stand, boxes


def _bundles(
    *columns: np.ndarray,
) -> tuple[list[np.ndarray], Int[np.ndarray, " bundle"]]:
    """Places of edges that are the same in all columns, and the last (strongest) of each."""
    found: dict[tuple[float, ...], list[int]] = {}
    for place, key in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        found.setdefault(key, []).append(place)
    bundles = sorted(found.values(), key=lambda places: places[-1])
    last = np.array([places[-1] for places in bundles], dtype=np.int64)
    return [np.array(places) for places in bundles], last


def _heights(
    nodes: Nodes, placed: np.ndarray, n_layers: int
) -> tuple[np.ndarray, tuple[Row, ...], tuple[Fold, ...]]:
    """Height of every placed node, the stripe of every layer that has one, and those folded."""
    y = np.zeros(len(placed))
    rows: list[Row] = []
    folds: list[Fold] = []
    height, previous = 0.0, -1
    for layer in np.unique(nodes.layer[placed & (nodes.layer >= 0)]).tolist():
        if layer > previous + 1:
            folds.append(Fold(previous + 1, layer - 1, height + (LAYER_GAP + SKIPPED_GAP) / 2))
            height += SKIPPED_GAP
        height += LAYER_GAP
        low, previous = height, layer
        for kind in ("kv", "head", "mlp"):
            level = placed & (nodes.layer == layer) & (nodes.kinds == kind)
            if level.any():
                y[level] = height
                height += LEVEL
        height -= LEVEL
        rows.append(Row(layer, low - LAYER_GAP / 2, height + LAYER_GAP / 2))
    if previous < n_layers - 1:
        folds.append(Fold(previous + 1, n_layers - 1, height + (LAYER_GAP + SKIPPED_GAP) / 2))
        height += SKIPPED_GAP
    y[-1] = height + LAYER_GAP
    return y, tuple(rows), tuple(folds)


def _columns(nodes: Nodes, placed: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """Column of every placed head and key-value head, and the number of columns."""
    x = np.zeros(len(placed))
    heads = placed & (nodes.kinds == "head")
    used, rank = np.unique(nodes.index[heads], return_inverse=True)
    if not len(used):
        return x, 1
    fullest = int(np.bincount(nodes.layer[heads]).max())
    n_columns = len(used) if len(used) <= limit else max(limit, fullest)
    x[heads] = rank * (n_columns - 1) / max(len(used) - 1, 1)
    for layer in np.unique(nodes.layer[heads]).tolist():
        row = np.flatnonzero(heads & (nodes.layer == layer))
        x[row] = _spread(x[row], n_columns)
    for layer in np.unique(nodes.layer[placed & (nodes.kinds == "kv")]).tolist():
        row = np.flatnonzero(placed & (nodes.layer == layer) & (nodes.kinds == "kv"))
        n_columns = max(n_columns, len(row))
        groups = [nodes.served[nodes.served[:, 0] == node, 1] for node in row]
        middles = [
            x[group[placed[group]]].mean() if placed[group].any() else slot
            for slot, group in enumerate(groups)
        ]
        x[row] = _spread(np.array(middles, dtype=float), n_columns)
    return x, n_columns


def _spread(wanted: Float[np.ndarray, " node"], n_columns: int) -> Float[np.ndarray, " node"]:
    """Whole columns in the given order, no two alike, near the wanted places."""
    steps = np.arange(len(wanted))
    rising = np.maximum.accumulate(np.round(wanted) - steps)
    return np.minimum(rising, n_columns - len(wanted)) + steps
