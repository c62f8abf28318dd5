"""Before and after in one picture: what became of every edge, and where that cannot be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from circuits.graph.comparison import Comparison
from viz import theme
from viz.groups import Groups
from viz.layout import Placement, lay_out
from viz.marking import marked
from viz.paper.difference import edge_styles, either_circuit, shown_circuit
from viz.screen.boxes import bundled, line_names
from viz.screen.circuit import COLUMNS, MOST_EDGES, left_out, with_legend, with_title
from viz.screen.drawing import figure_of
from viz.screen.scene import Scene, make_scene
from viz.screen.style import plain

if TYPE_CHECKING:
    from locate.changes.rewired import Rewiring

STATUS: dict[theme.EdgeStyle, str] = {
    theme.KEPT: "kept",
    theme.GAINED: "gained",
    theme.LOST: "lost",
    theme.FLIPPED: "flipped",
    theme.CANNOT_TELL: "cannot tell",
}
"""What became of an edge, by its look."""


def difference_figure(
    found: Comparison | Rewiring,
    max_edges: int = 150,
    title: str | None = None,
    placement: Placement | str = Placement.COMPACT,
    noise: bool | None = None,
) -> go.Figure:
    """Up to `max_edges` edges of either circuit: gained, lost and flipped, then the strongest kept.

    Where the comparison has a noise floor, an edge gained, lost or flipped whose change is not
    called one is drawn as "cannot tell", unless `noise` is off or no change is called one
    (`viz.marking.marked`). Width is the larger |score| of before and after. The title says what was
    compared, how much either shares and how much is drawn, and below it what is said of noise,
    unless another is given ("" for none).
    """
    whole = found if isinstance(found, Comparison) else found.comparison
    comparison, said = marked(whole, noise)
    scene = difference_scene(comparison, max_edges, placement)
    figure = with_legend(figure_of(scene), scene)
    if title is None:
        return with_title(figure, _heading(found, comparison, scene), said)
    return with_title(figure, title)


def _heading(found: Comparison | Rewiring, comparison: Comparison, scene: Scene) -> str:
    """What was compared, how many edges either has of the other's, and how many are drawn."""
    about = found.heading() or "two circuits"
    sizes = f"{comparison.before.n_edges:,} edges before, {comparison.after.n_edges:,} after"
    text = f"{about}: {sizes}, {int(comparison.kept.sum()):,} in both"
    if scene.n_edges < either_circuit(comparison).n_edges:
        text += f"; {scene.n_edges:,} drawn, what changed first"
    return text


def difference_left_out(comparison: Comparison, scene: Scene) -> str:
    """What of the edges of either circuit is in no picture; empty where nothing is."""
    n_edges = either_circuit(comparison).n_edges
    return left_out(n_edges, scene, "that come first, what changed before the rest")


def difference_scene(
    comparison: Comparison,
    max_edges: int = MOST_EDGES,
    placement: Placement | str = Placement.COMPACT,
    groups: Groups | None = None,
) -> Scene:
    """The scene of the edges of either circuit, what changed before what is strong.

    `groups` are drawn as boxes. A line stands for edges of which the same became, and its scores
    before and after are the signed sums of theirs.
    """
    union = shown_circuit(comparison, max_edges)
    kept, sorts = np.flatnonzero(union.kept), np.zeros(len(union.kept), dtype=np.int64)
    sorts[kept] = [list(STATUS).index(style) for style in edge_styles(comparison, kept)]
    layout = lay_out(union, max_edges, placement, COLUMNS, groups, sorts)
    sums = None if comparison.scores is None else [layout.totals(s) for s in comparison.scores]
    size = np.ones(len(layout.edges)) if sums is None else np.maximum(*np.abs(sums))
    styles = edge_styles(comparison, layout.edges)
    titles = []
    for place, (name, style) in enumerate(
        zip(line_names(union.wiring, layout), styles, strict=True)
    ):
        bundle = layout.bundles[place]
        parts = [f"<b>{plain(bundled(name, bundle))}</b>", style.legend]
        if sums is not None:
            parts.append(f"before {sums[0][place]:+.4g}, after {sums[1][place]:+.4g}")
        if comparison.changes is not None and len(bundle) == 1:
            parts.append(f"against the noise: {comparison.changes.decision(int(bundle[0]))}")
        titles.append("<br>".join(parts))
    classes = [STATUS[style] for style in styles]
    return make_scene(union, layout, styles, size, titles, classes)
