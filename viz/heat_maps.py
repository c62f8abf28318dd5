"""Heat maps of indirect effects: rows of tokens or roles, columns of layers, a panel a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import AxesImage

from circuits.errors import OptionError
from viz import canvas, theme

TOKEN_ROW = 0.15
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
    ringed: Sequence[int] = (),
) -> Path:
    """Heat maps side by side, one a kind of state, on one colour scale with one set of labels.

    Rows `subject` are bold and marked; of rows `ringed` the largest effect is ringed. Errors are
    those of `viz.plots`.
    """
    canvas.check_suffix(path)
    if not effects:
        raise OptionError("the trace holds no kind of state: nothing to draw")
    with canvas.paper_style():
        lines = canvas.wrapped(caption, canvas.CAPTION, width - 0.16)
        # A long prompt gets lower rows rather than a page that is too high.
        row = min(max(TOKEN_ROW, 1.35 / len(labels)), 7.0 / len(labels))
        top, foot = (0.5 if title else 0.3), 0.45 + 0.13 * len(lines)
        size = min(canvas.CAPTION, 60 * row)
        gutter = 0.2 + max(canvas.text_width(label, size, "bold") for label in labels)
        height = top + foot + row * len(labels)
        figure = canvas.new_figure(width, height)
        lowest = min(0.0, *(float(effect.min()) for effect in effects.values()))
        highest = max(float(effect.max()) for effect in effects.values())
        # Orange has half of blue's range, so a loss counts double in choosing the scale.
        largest = max(highest, -2 * lowest) or 1.0
        panel = (width - gutter - 0.75) / len(effects)
        for index, (kind, effect) in enumerate(effects.items()):
            left = gutter + index * panel
            box = (left / width, foot / height, (panel - 0.14) / width, 1 - (top + foot) / height)
            axes = figure.add_axes(box)
            image = _heat_map(axes, effect, largest)
            _ring_peaks(axes, effect, ringed, largest)
            axes.set_title(kind, parse_math=False)
            if index:
                axes.set_yticks([])
            else:
                axes.set_yticks(range(len(labels)), labels, size=size, parse_math=False)
                _mark_subject(axes, subject)
        right = gutter + panel * len(effects)
        rectangle = (right / width, foot / height, 0.08 / width, 1 - (top + foot) / height)
        bar = figure.colorbar(image, cax=figure.add_axes(rectangle))
        bar.ax.set_ylim(lowest, largest)
        bar.set_label("indirect effect (probability)")
        bar.outline.set_visible(False)
        canvas.page_text(figure, title, lines)
        return canvas.save(figure, path, title or heading, provenance)


def layer_ticks(n_layers: int, most: int) -> list[int]:
    """At most so many layers, evenly spaced from layer 0."""
    return list(range(0, n_layers, max(1, -(-n_layers // most))))


def _heat_map(axes: Axes, effect: Float[np.ndarray, "pos layer"], largest: float) -> AxesImage:
    image = axes.imshow(
        effect,
        cmap=EFFECT_COLOURS,
        vmin=-largest / 2,
        vmax=largest,
        aspect="auto",
        interpolation="nearest",
        rasterized=False,
    )
    axes.set_xlabel("layer")
    axes.set_xticks(layer_ticks(effect.shape[1], 8))
    axes.set_xticks(np.arange(effect.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(effect.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=theme.PAPER, linewidth=0.5)
    axes.tick_params(which="both", left=False, length=0)
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


def _mark_subject(axes: Axes, rows: Sequence[int]) -> None:
    if not rows:
        return
    labels = axes.get_yticklabels()
    for row in rows:
        labels[row].set_fontweight("bold")
    axes.plot(
        [-0.012] * 2,
        [rows[0] - 0.4, rows[-1] + 0.4],
        transform=axes.get_yaxis_transform(),
        color=theme.INK,
        linewidth=1.6,
        solid_capstyle="butt",
        clip_on=False,
    )
