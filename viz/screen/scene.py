"""A circuit's picture in parts, from which any number of its edges can be shown at once.

1. *Lay out* the strongest edges once (`viz.layout`): nodes never move when fewer are shown.
2. *Order* the edges: the first k are, for any k, the k strongest that lie on paths among
   themselves. An edge joins a path as soon as some path from input to logits through it is
   complete, which is a bottleneck path: the weakest of its edges decides.
3. *Group* edges that look alike (kind of line, width): a figure has one line a group, and showing
   or hiding an edge cuts its piece in or out of the group's line (`viz.screen.drawing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from circuits.graph.circuit import Circuit
from circuits.model.wiring import node_kind
from viz import theme
from viz.layout import Layout
from viz.routing import sample_curves
from viz.screen.boxes import box_names, bundle_records, line_names, told_apart

WIDTH_BINS = 6
PIXELS = 1.7
"""Screen pixels for one point of a line's width on paper."""
MANY = 400
"""Edges above which the pointer finds an edge at fewer points."""


@dataclass(frozen=True)
class Group:
    """Edges that look alike: one trace."""

    style: theme.EdgeStyle
    width: float
    strength: float


@dataclass(frozen=True, eq=False)
class Scene:
    """All that a picture of a circuit can show; edges as in `layout`, weakest first.

    `order` gives each edge's place in the order of appearance, 0 first; `size` is the number that
    the threshold is held against; `titles` are the hover labels. Where groups are collapsed, an
    edge here may stand for many (`layout.bundles`, by name in `bundles` where it meets a box), and
    `boxes` names the node of each box.
    """

    layout: Layout
    groups: tuple[Group, ...]
    group_of: Int[np.ndarray, " edge"]
    order: Int[np.ndarray, " edge"]
    size: Float[np.ndarray, " edge"]
    names: tuple[str, ...]
    titles: tuple[str, ...]
    classes: tuple[str, ...]
    roles: dict[str, str]
    bundles: Mapping[int, Sequence[str]] = field(default_factory=dict)

    @property
    def n_edges(self) -> int:
        """Edges of the circuit that can be shown, those within boxes too."""
        return self.layout.n_drawn

    @property
    def n_lines(self) -> int:
        """Lines that can be shown: as many as edges where no group is collapsed."""
        return len(self.layout.edges)

    @cached_property
    def boxes(self) -> dict[str, str]:
        """What the boxes of groups are called, by the node in whose place each stands."""
        return box_names(self.layout)

    @property
    def nodes(self) -> tuple[str, ...]:
        """What the nodes of the layout are called, boxes by the name of their group."""
        return tuple(self.boxes.get(node, node) for node in self.layout.nodes)

    def handles(self) -> Float[np.ndarray, "edge points 2"]:
        """Points along each edge at which the pointer finds it."""
        return sample_curves(self.layout.curves, 17 if self.n_lines <= MANY else 5)[:, 1:-1]

    def looks_of(self, node: str) -> theme.NodeStyle:
        """A node's style, by its role or kind."""
        return self.layout.look(node, self.roles)

    def style_key(self, node: str) -> str:
        """Nodes with the same key look alike."""
        if self.looks_of(node) == theme.GROUP:
            return "group"
        role = self.roles.get(node, "")
        return role if role in theme.ROLES else node_kind(node)


def appearance(
    tail: Int[np.ndarray, " edge"],
    head: Int[np.ndarray, " edge"],
    strength: Float[np.ndarray, " edge"],
    heights: Float[np.ndarray, " node"],
    ends: tuple[int, int],
    free: Sequence[tuple[int, int]] = (),
) -> Int[np.ndarray, " edge"]:
    """Each edge's place in the order of appearance (see the module's text).

    Edges rise in `heights`; `free` links cost nothing (a key-value head and its heads). Edges on no
    path come last, in order of strength.
    """
    n_edges = len(tail)
    rank = np.empty(n_edges, dtype=np.int64)
    rank[np.argsort(-strength, kind="stable")] = np.arange(n_edges)
    links = [(int(a), int(b), int(r)) for a, b, r in zip(tail, head, rank, strict=True)]
    links += [(a, b, -1) for a, b in free]

    def reached(start: int, forward: bool) -> np.ndarray:
        """For each node the weakest edge's rank on the best path from `start`."""
        worst = np.full(len(heights), n_edges, dtype=np.int64)
        worst[start] = -1
        for a, b, r in sorted(
            links, key=lambda link: heights[link[0 if forward else 1]] * (1 if forward else -1)
        ):
            source, target = (a, b) if forward else (b, a)
            worst[target] = min(worst[target], max(worst[source], r))
        return worst

    below, above = reached(ends[0], True), reached(ends[1], False)
    joins = np.maximum(np.maximum(below[tail], above[head]), rank)
    # Of edges that one bridge connects, the bridge comes first.
    keys = np.lexsort((np.where(rank == joins, -1, rank), joins))
    order = np.empty(n_edges, dtype=np.int64)
    order[keys] = np.arange(n_edges)
    return order


def make_scene(
    circuit: Circuit,
    layout: Layout,
    styles: Sequence[theme.EdgeStyle],
    size: Float[np.ndarray, " edge"],
    titles: Sequence[str],
    classes: Sequence[str],
) -> Scene:
    """The scene of a laid-out circuit whose edges have these looks, sizes and hover texts."""
    share = theme.edge_strengths(size) if len(size) else np.zeros(0)
    level = np.minimum((share - share.min(initial=1.0)) / 0.5501 * WIDTH_BINS, WIDTH_BINS - 1)
    bins = np.maximum(level.astype(np.int64), 0)
    kinds = list(dict.fromkeys(styles))
    keys = sorted(
        {(int(level), kinds.index(style)) for level, style in zip(bins, styles, strict=True)}
    )
    place = {key: index for index, key in enumerate(keys)}
    groups = []
    for index, (level, kind) in enumerate(keys):
        members = [
            edge
            for edge, style in enumerate(styles)
            if (int(bins[edge]), kinds.index(style)) == keys[index]
        ]
        widths = theme.edge_widths(size[members], float(size.max(initial=0.0)))
        strength = 0.42 + 0.58 * (level + 1) / WIDTH_BINS
        groups.append(Group(kinds[kind], round(PIXELS * float(widths.mean()), 2), strength))
    group_of = [place[int(level), kinds.index(s)] for level, s in zip(bins, styles, strict=True)]
    ids = {node: index for index, node in enumerate(layout.nodes)}
    order = appearance(
        layout.tail,
        layout.head,
        size,
        layout.y,
        (ids["input"], ids["logits"]),
        [(ids[a], ids[b]) for a, b in layout.shared],
    )
    return Scene(
        layout=layout,
        groups=tuple(groups),
        group_of=np.array(group_of, dtype=np.int64),
        order=order,
        size=size,
        names=told_apart(line_names(circuit.wiring, layout), classes),
        titles=tuple(titles),
        classes=tuple(classes),
        roles=dict(circuit.roles),
        bundles=bundle_records(circuit.wiring, layout),
    )
