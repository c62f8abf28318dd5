"""The picture of what happened to a circuit: before and after in one drawing.

An edge is kept, gained, lost, or kept with its sign flipped; colour and line style both say which.
Its width is the larger of its scores before and after.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.compare import Comparison
from circuits.graph import Circuit, EdgeScores
from viz import canvas, theme
from viz.layout import Layout, Placement, lay_out
from viz.paper import EdgeLook, Entry, columns_in, drawn, size_legend


def draw_difference(
    comparison: Comparison,
    path: str | Path,
    title: str | None = None,
    max_edges: int = 120,
    width: float = theme.DOUBLE_COLUMN,
    placement: Placement = Placement.COMPACT,
) -> Path:
    """Draw the strongest `max_edges` edges of either circuit, and return the path.

    Errors as in `viz.paper.draw_circuit`.
    """
    canvas.check_suffix(path)
    union = either_circuit(comparison)
    layout = lay_out(union, max_edges, placement, columns_in(width))
    with canvas.paper_style():
        look, caption = _look(comparison, union, layout), describe(comparison, layout)
        figure = drawn(union, layout, look, caption, width, title)
        return canvas.save(figure, path, title or "Circuit before and after", union.provenance)


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
    )


def describe(comparison: Comparison, layout: Layout) -> str:
    """The caption: model and relation, counts of edges, agreement."""
    origin: dict[str, Any] = dict(comparison.before.provenance)
    parts = [str(origin[key]) for key in ("model", "relation") if key in origin]
    named = {"kept": comparison.kept, "gained": comparison.gained, "lost": comparison.lost}
    counts = [f"{int(mask.sum())} {name}" for name, mask in named.items()]
    if comparison.flipped is not None:
        counts.append(f"{int(comparison.flipped.sum())} flipped")
    parts.append("edges: " + ", ".join(counts))
    if layout.n_drawn < layout.n_kept:
        parts.append(f"strongest {layout.n_drawn:,} of {layout.n_kept:,} drawn")
    parts.append(f"Jaccard {comparison.jaccard:.2f}")
    return canvas.visible("  ·  ".join(parts))


def edge_styles(comparison: Comparison, edges: np.ndarray) -> list[theme.EdgeStyle]:
    """What became of each of these edges."""
    styles = np.full(len(edges), theme.KEPT, dtype=object)
    styles[comparison.gained[edges]] = theme.GAINED
    styles[comparison.lost[edges]] = theme.LOST
    if comparison.flipped is not None:
        styles[comparison.flipped[edges]] = theme.FLIPPED
    return styles.tolist()


def _look(comparison: Comparison, union: Circuit, layout: Layout) -> EdgeLook:
    styles = edge_styles(comparison, layout.edges)
    order = (theme.KEPT, theme.GAINED, theme.LOST, theme.FLIPPED)
    legend: list[Entry] = [(style.legend, style, 1.4) for style in order if style in styles]
    if union.scores is None or not layout.n_drawn:
        flat: Float[np.ndarray, " edge"] = np.full(layout.n_drawn, 0.9)
        return EdgeLook(styles, flat, np.ones(layout.n_drawn), legend)
    scores = union.scores.values[layout.edges]
    widths, strengths = theme.edge_widths(scores), theme.edge_strengths(scores)
    return EdgeLook(styles, widths, strengths, legend + size_legend(scores))
