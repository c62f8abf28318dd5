"""The picture of what happened to a circuit: before and after in one drawing.

An edge is kept, gained, lost, or kept with its sign flipped; colour and line style both say which.
Its width is the larger of its scores before and after. What changed is drawn first, however weak,
with a path from input to logits through it; the strongest kept edges fill the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.noise import Decision
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring
from viz import theme
from viz.layout import Layout, Placement, lay_out
from viz.marking import marked
from viz.paper import canvas
from viz.paper.circuit import Sheet, columns_in, compose, drawn, edges_asked, fitted
from viz.paper.legend import EdgeLook, Entry, size_legend

if TYPE_CHECKING:  # brings torch along; a figure needs no model
    from locate.changes.rewired import Rewiring

LEAST_CHANGED = 0.9
"""Least width in points of an edge that changed."""


def draw_difference(
    found: Comparison | Rewiring,
    path: str | Path,
    title: str | None = None,
    max_edges: int | None = None,
    width: float = theme.DOUBLE_COLUMN,
    placement: Placement | str = Placement.COMPACT,
    notes: bool = True,
    only: Bool[np.ndarray, " edge"] | None = None,
    noise: bool | None = None,
) -> Path:
    """Draw edges of either circuit, what changed first, and return the path.

    `noise` as in `viz.marking.marked`. Other options and errors as in
    `viz.paper.circuit.draw_circuit`.
    """
    canvas.check_suffix(path)
    asked = edges_asked(max_edges, only)
    whole = found if isinstance(found, Comparison) else found.comparison
    comparison, said = marked(whole, noise)

    def sheet(most: int) -> Sheet:
        union = shown_circuit(comparison, most) if only is None else either_circuit(comparison)
        layout = lay_out(union, most, placement, columns_in(width), only=only)
        look, told = _look(comparison, union, layout), describe(comparison, layout, said)
        return compose(union, layout, look, told, width, title, notes)

    with canvas.paper_style():
        figure = drawn(fitted(sheet, asked))
        origin = comparison.before.provenance
        return canvas.save(figure, path, title or "Circuit before and after", origin)


def either_circuit(comparison: Comparison) -> Circuit:
    """The edges of either circuit, with the larger |score| of the two where they are scored."""
    before, after = comparison.before, comparison.after
    scores = None
    if comparison.scores is not None:
        size = np.maximum(*(np.abs(values) for values in comparison.scores))
        scores = EdgeScores(before.wiring, size)
    return Circuit(
        before.wiring,
        before.kept | after.kept,
        scores,
        roles={**after.roles, **before.roles},
        provenance=before.provenance,
        evidence=before.evidence,
    )


def shown_circuit(comparison: Comparison, max_edges: int) -> Circuit:
    """The edges of either circuit to draw, at most `max_edges`: what changed, then what is strong.

    Every edge gained, lost or flipped comes with its strongest path, as long as there is room, the
    one with the largest |score| first.
    OptionError: `max_edges` below 1.
    """
    if max_edges < 1:
        raise OptionError(f"at least one edge must be drawn, not {max_edges}")
    union = either_circuit(comparison)
    if union.n_edges <= max_edges:
        return union
    ranked = union.ranked()
    paths = _Paths.of(union, ranked)
    styles = edge_styles(comparison, np.array(ranked))
    order = sorted(range(len(ranked)), key=lambda place: styles[place] is theme.KEPT)
    chosen: set[int] = set()
    for edge in (ranked[place] for place in order):
        wanted = chosen | paths.through(edge)
        if len(wanted) <= max_edges:
            chosen = wanted
        if len(chosen) == max_edges:
            break
    kept = np.zeros_like(union.kept)
    kept[sorted(chosen)] = True
    return union.keeping(kept)


@dataclass(frozen=True)
class _Paths:
    """The strongest edge into and out of each node of a circuit."""

    wiring: Wiring
    into: dict[str, int]
    out_of: dict[str, int]

    @classmethod
    def of(cls, circuit: Circuit, ranked: list[int]) -> _Paths:
        wiring = circuit.wiring
        into: dict[str, int] = {}
        out_of: dict[str, int] = {}
        for edge in ranked:
            out_of.setdefault(wiring.src_names[wiring.edge_src[edge]], edge)
            for head in wiring.heads_of(wiring.dst_nodes[wiring.edge_dst[edge]]):
                into.setdefault(head, edge)
        return cls(wiring, into, out_of)

    def through(self, edge: int) -> set[int]:
        """The edge with the strongest ones before and after it; a loose end stays loose."""
        wiring, found = self.wiring, {edge}
        node = wiring.src_names[wiring.edge_src[edge]]
        while node in self.into:
            found.add(self.into[node])
            node = wiring.src_names[wiring.edge_src[self.into[node]]]
        heads = wiring.heads_of(wiring.dst_nodes[wiring.edge_dst[edge]])
        while onward := [self.out_of[head] for head in heads if head in self.out_of]:
            found.add(onward[0])
            heads = wiring.heads_of(wiring.dst_nodes[wiring.edge_dst[onward[0]]])
        return found


def describe(comparison: Comparison, layout: Layout, said: str) -> str:
    """The caption: model and relation, counts of edges, agreement, and what is said of noise."""
    origin: dict[str, Any] = dict(comparison.before.provenance)
    parts = canvas.asked(origin)
    named = {"kept": comparison.kept, "gained": comparison.gained, "lost": comparison.lost}
    counts = [f"{int(mask.sum())} {name}" for name, mask in named.items()]
    if comparison.flipped is not None:
        counts.append(f"{int(comparison.flipped.sum())} flipped")
    parts.append("edges: " + ", ".join(counts))
    n_edges = either_circuit(comparison).n_edges
    if layout.n_drawn < n_edges:
        first = "" if layout.picked else ", what changed first"
        parts.append(f"{layout.n_drawn:,} of {n_edges:,} drawn{first}")
    parts += [f"Jaccard {comparison.jaccard:.2f}", said]
    return canvas.joined(parts)


def edge_styles(comparison: Comparison, edges: np.ndarray) -> list[theme.EdgeStyle]:
    """What became of each of these edges.

    Where there is a noise floor, an edge gained, lost or flipped whose change is not called one
    may be there by chance of the pairs: "cannot tell".
    """
    styles = np.full(len(edges), theme.KEPT, dtype=object)
    styles[comparison.gained[edges]] = theme.GAINED
    styles[comparison.lost[edges]] = theme.LOST
    if comparison.flipped is not None:
        styles[comparison.flipped[edges]] = theme.FLIPPED
    if comparison.changes is not None:
        sure = comparison.changes.called(Decision.CHANGED)[edges]
        styles[(styles != theme.KEPT) & ~sure] = theme.CANNOT_TELL
    return styles.tolist()


def _look(comparison: Comparison, union: Circuit, layout: Layout) -> EdgeLook:
    styles = edge_styles(comparison, layout.edges)
    order = (theme.KEPT, theme.GAINED, theme.LOST, theme.FLIPPED, theme.CANNOT_TELL)
    legend: list[Entry] = [(style.legend, style, 1.4) for style in order if style in styles]
    if union.scores is None or not layout.n_drawn:
        flat: Float[np.ndarray, " edge"] = np.full(layout.n_drawn, 0.9)
        return EdgeLook(styles, flat, np.ones(layout.n_drawn), legend)
    scores = union.scores.values[layout.edges]
    widths, strengths = theme.edge_widths(scores), theme.edge_strengths(scores)
    # What changed is often weak; it must be seen beside the strong edges that stayed.
    differs = np.array([style != theme.KEPT for style in styles])
    widths = np.where(differs, np.maximum(widths, LEAST_CHANGED), widths)
    strengths = np.where(differs, 1.0, strengths)
    return EdgeLook(styles, widths, strengths, legend + size_legend(scores))
