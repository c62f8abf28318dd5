"""Heat maps of indirect effects: rows of tokens or roles, columns of layers, a panel a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap

from circuits.base.errors import OptionError
from viz import theme
from viz.paper import canvas

TOKEN_ROW = 0.15
LABEL_ROOM = 0.13
"""Inches that a layer's number needs."""
BETWEEN = 0.4
"""Inches from one map to the next below it: the layers' numbers and a title."""
ONE_COLUMN = 4.5
"""Pages narrower than this, in inches, have panels one above the other."""
MOST_PARTED = 12
"""Layers whose cells have a gap between them."""
LEAST_RINGED = 0.05
EFFECT_COLOURS = LinearSegmentedColormap.from_list(
    "effect", [theme.OPPOSES.colour, theme.PAPER, theme.SUPPORTS.colour, "#00324F"]
)


def draw_effects(
    path: str | Path,
    *,
    effects: Mapping[str, Float[np.ndarray, "row layer"]],
    labels: Sequence[str],
    subject: Sequence[int],
    caption: str,
    title: str | None,
    heading: str,
    provenance: Mapping[str, Any],
    width: float,
    measure: str,
    ringed: Sequence[int] = (),
    notes: bool = True,
) -> Path:
    """Heat maps, one a kind of state, on one colour scale of `measure` with the same labels.

    They stand side by side, or one above the other on a page narrower than `ONE_COLUMN`.
    Rows `subject` are bold and marked; of rows `ringed` the largest effect is ringed. Errors are
    those of `viz.paper.curves`.
    """
    canvas.check_suffix(path)
    if not effects:
        raise OptionError("the trace holds no kind of state: nothing to draw")
    with canvas.paper_style():
        lines = canvas.noted(caption, width, notes)
        stacked = width < ONE_COLUMN
        down, across = (len(effects), 1) if stacked else (1, len(effects))
        # A long prompt gets lower rows rather than a page that is too high.
        row = min(max(TOKEN_ROW, 1.35 / len(labels) / down), 7.0 / len(labels) / down)
        size = min(canvas.CAPTION, max(canvas.SMALLEST, 60 * row))
        named = _named(len(labels), subject, -(-size // (60 * row)))
        above, foot = (0.5 if title else 0.3), 0.45 + 0.13 * len(lines)
        gutter = 0.2 + max(canvas.text_width(labels[place], size, "bold") for place in named)
        tall = row * len(labels)
        height = above + down * (tall + BETWEEN) - BETWEEN + foot
        figure = canvas.new_figure(width, height)
        lowest = min(0.0, *(float(effect.min()) for effect in effects.values()))
        highest = max(float(effect.max()) for effect in effects.values())
        # Orange has half of blue's range, so a loss counts double in choosing the scale.
        largest = max(highest, -2 * lowest) or 1.0
        panel = (width - gutter - 0.75) / across
        room = panel - 0.14
        for index, (kind, effect) in enumerate(effects.items()):
            below, right = (down - 1 - index, 0) if stacked else (0, index)
            low = foot + below * (tall + BETWEEN)
            left = gutter + right * panel
            axes = figure.add_axes((left / width, low / height, room / width, tall / height))
            image = _heat_map(axes, effect, largest, max(2, int(room / LABEL_ROOM)))
            _ring_peaks(axes, effect, ringed, largest)
            axes.set_title(_fitting(kind, room), parse_math=False)
            axes.set_xlabel("layer" if below == 0 else "")
            if right:
                axes.set_yticks([])
            else:
                shown = [labels[place] for place in named]
                axes.set_yticks(named, shown, size=size, parse_math=False)
                _mark_subject(axes, subject, named)
        # Of maps one above the other the scale stands beside them all.
        beside = (gutter + panel * across) / width
        rectangle = (beside, foot / height, 0.08 / width, 1 - (above + foot) / height)
        bar = figure.colorbar(image, cax=figure.add_axes(rectangle))
        bar.ax.set_ylim(lowest, largest)
        bar.set_label(f"indirect effect ({measure})")
        bar.outline.set_visible(False)
        assert bar.solids is not None  # drawn above
        bar.solids.set(rasterized=False, edgecolor="face", linewidth=0.3)
        canvas.page_text(figure, title, lines)
        return canvas.save(figure, path, title or heading, provenance)


def _named(n_rows: int, first: Sequence[int], apart: float) -> list[int]:
    """The rows to name: all where there is room, else the subject's, the last, and others."""
    ends = [*first[-1:], n_rows - 1, *first[:1]]
    named: list[int] = []
    for place in [*ends, *range(n_rows)]:
        if all(abs(place - other) >= apart for other in named):
            named.append(place)
    return sorted(named)


def layer_ticks(n_layers: int, most: int) -> list[int]:
    """At most so many layers, evenly spaced from layer 0."""
    return list(range(0, n_layers, max(1, -(-n_layers // most))))


def layer_labels(n_layers: int, most: int, first: str, room: float) -> tuple[list[int], list[str]]:
    """Ticks of layers, with one named `first` at -1, and their labels.

    `room` is the inches that one layer has: where it is too little for both, layer 0 goes unnamed.
    """
    ticks = layer_ticks(n_layers, most)
    needed = canvas.text_width(f"{first} 0", 6.5) / 2 + 0.04
    if ticks[0] == 0 and room < needed:
        ticks = ticks[1:]
    return [-1, *ticks], [first, *map(str, ticks)]


def _fitting(kind: str, width: float) -> str:
    """A panel's name, or its first word where there is no room for all of it."""
    return kind if canvas.text_width(kind, 7.5) <= width else kind.partition(" ")[0]


def _heat_map(
    axes: Axes, effect: Float[np.ndarray, "pos layer"], largest: float, most_ticks: int
) -> QuadMesh:
    # Cells as polygons: a bitmap would blur in print.
    rows, columns = (np.arange(size + 1) - 0.5 for size in effect.shape)
    parted = effect.shape[1] <= MOST_PARTED
    image = axes.pcolormesh(
        columns,
        rows,
        effect,
        cmap=EFFECT_COLOURS,
        vmin=-largest / 2,
        vmax=largest,
        # Gaps part the cells of a few layers; of many they would be a bar code.
        edgecolors=theme.PAPER if parted else "face",
        linewidth=0.5 if parted else 0.2,
    )
    axes.invert_yaxis()
    axes.set_xticks(layer_ticks(effect.shape[1], min(8, most_ticks)))
    axes.tick_params(left=False, length=0)
    axes.spines[:].set(visible=True, color=theme.RULE, linewidth=0.5)
    return image


def _ring_peaks(
    axes: Axes, effect: Float[np.ndarray, "row layer"], rows: Sequence[int], largest: float
) -> None:
    """Ring each row's largest effect, where it is at least a twentieth of the colour scale."""
    for row in rows:
        layer = int(effect[row].argmax())
        share = effect[row, layer] / largest
        if share >= LEAST_RINGED:
            colour = theme.PAPER if share > 0.25 else theme.INK
            axes.plot(layer, row, "o", markersize=3.2, markerfacecolor="none", color=colour)


def _mark_subject(axes: Axes, rows: Sequence[int], named: Sequence[int]) -> None:
    if not rows:
        return
    for row, label in zip(named, axes.get_yticklabels(), strict=True):
        if row in rows:
            label.set_fontweight("bold")
    axes.plot(
        [-0.012] * 2,
        [rows[0] - 0.4, rows[-1] + 0.4],
        transform=axes.get_yaxis_transform(),
        color=theme.INK,
        linewidth=1.6,
        solid_capstyle="butt",
        clip_on=False,
    )
