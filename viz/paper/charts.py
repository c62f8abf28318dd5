"""Charts of analyses: bars, dots and lines with intervals, stacked shares, matrices.

A chart is a frozen value that holds what it shows; `draw(path, provenance)` writes it as SVG, PDF
or PNG. Series named in `muted` are baselines and controls: drawn grey. Intervals without limits
are drawn as bare points, undefined ones not at all. Errors of all: OptionError for another suffix
or nothing to draw, StoreError where the file cannot be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from viz import theme
from viz.paper import canvas
from viz.paper.chart_parts import (
    LABEL,
    LINE,
    arranged,
    check_series,
    finish,
    labels,
    longest,
    need_turning,
    page,
    saved,
    sheet,
    thinned,
    tone_of,
    turn,
)

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("solid", (0, (4, 1.4)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
FILL = LinearSegmentedColormap.from_list("fill", [theme.PAPER, "#9CC7E4", "#0072B2", "#00324F"])
BOTH_WAYS = LinearSegmentedColormap.from_list(
    "both ways", ["#8A3C00", theme.OPPOSES.colour, theme.PAPER, theme.SUPPORTS.colour, "#00324F"]
)


NARROWEST = 1.15
"""Width of a panel, in inches, with what stands beside it; where there is less, rows are broken."""
LOWEST = 0.7
"""Height of a panel, in inches, that long labels below it leave at least."""


@dataclass(frozen=True)
class Bars:
    """Grouped bars with intervals: `series[name][i]` belongs to `groups[i]`."""

    groups: Sequence[str]
    series: Mapping[str, Sequence[Interval]]
    y_label: str = ""
    muted: Sequence[str] = ()
    level: float | None = None
    y_limits: tuple[float | None, float | None] = (None, None)
    width: float = theme.DOUBLE_COLUMN
    height: float = 2.2

    def draw(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write the chart; `level` is a line across it, such as chance."""
        check_series(self.groups, self.series)
        names, turned, extra = arranged(self.groups, self.width - 0.7)
        foot = 0.22 + extra
        with sheet(path, self.width, self.height, foot, len(self.series)) as (figure, axes):
            if self.level is not None:
                axes.axhline(self.level, color=theme.MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
            step = 0.8 / len(self.series)
            for index, (name, values) in enumerate(self.series.items()):
                places = np.arange(len(self.groups)) - 0.4 + step * (index + 0.5)
                tone = tone_of(self.series, name, self.muted)
                heights = [each.value if np.isfinite(each.value) else 0.0 for each in values]
                axes.bar(places, heights, step * 0.9, color=tone, label=name, linewidth=0)
                for place, each in zip(places, values, strict=True):
                    if np.isfinite(each.low) and np.isfinite(each.high):
                        axes.plot([place] * 2, [each.low, each.high], color=theme.INK, lw=0.8)
            axes.set_xlim(-0.5, len(self.groups) - 0.5)
            axes.set_xticks(range(len(self.groups)), names, parse_math=False)
            if turned:
                turn(axes)
            finish(axes, "", self.y_label, self.y_limits)
            return saved(figure, path, self.series, provenance, self.y_label)


@dataclass(frozen=True)
class Dots:
    """A row a group with a point and an interval a series: many groups, read from top to bottom."""

    groups: Sequence[str]
    series: Mapping[str, Sequence[Interval]]
    x_label: str = ""
    muted: Sequence[str] = ()
    level: float | None = None
    x_limits: tuple[float | None, float | None] = (None, None)
    width: float = theme.DOUBLE_COLUMN

    def draw(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write the chart; `level` is a line down it, such as chance."""
        check_series(self.groups, self.series)
        rows = len(self.groups)
        left = 0.2 + longest(self.groups)
        height = 0.17 * rows + 0.55 + LINE
        with sheet(path, self.width, height, 0.3, len(self.series), left) as (figure, axes):
            for row in range(0, rows, 2):
                axes.axhspan(row - 0.5, row + 0.5, color=theme.STRIPE, zorder=0, linewidth=0)
            if self.level is not None:
                axes.axvline(self.level, color=theme.MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
            step = min(0.24, 0.7 / len(self.series))
            for index, (name, values) in enumerate(self.series.items()):
                shift = (index - (len(self.series) - 1) / 2) * step
                tone = tone_of(self.series, name, self.muted)
                for row, each in enumerate(values):
                    if np.isfinite(each.low) and np.isfinite(each.high):
                        span = [each.low, each.high]
                        axes.plot(span, [row + shift] * 2, color=tone, lw=1.0, zorder=2)
                places = np.arange(rows) + shift
                centres = [each.value for each in values]
                marker = MARKERS[index % len(MARKERS)]
                axes.plot(centres, places, marker, color=tone, ms=3.2, label=name, zorder=3)
            axes.set_ylim(rows - 0.5, -0.5)
            axes.set_yticks(range(rows), labels(self.groups), parse_math=False)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_xlim(*self.x_limits)
            axes.set_xlabel(self.x_label, parse_math=False)
            return saved(figure, path, self.series, provenance, self.x_label)


@dataclass(frozen=True)
class Lines:
    """Panels side by side, each with curves over `x` and their intervals as bands.

    There are `per_row` panels in a row (by default all of them), and a row has the `height`.
    `panels[title][series][i]` belongs to `x[i]`; a series has one colour in all panels. `faint`
    holds single curves by panel (one a relation, say), drawn thin and grey behind the others.
    `x_names` are written instead of numbers. `flipped` puts small values on top, as for ranks.
    """

    x: Sequence[float]
    panels: Mapping[str, Mapping[str, Sequence[Interval]]]
    x_label: str = ""
    y_labels: Sequence[str] = ()
    muted: Sequence[str] = ()
    faint: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    x_names: Sequence[str] = ()
    logarithmic: Sequence[str] = ()
    flipped: Sequence[str] = ()
    y_limits: tuple[float | None, float | None] = (None, None)
    per_row: int | None = None
    width: float = theme.DOUBLE_COLUMN
    height: float = 2.2

    def draw(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write the chart; `logarithmic` and `flipped` name panels."""
        names = list(dict.fromkeys(name for panel in self.panels.values() for name in panel))
        if not names:
            raise OptionError("no curve to draw")
        usual = self.per_row or len(self.panels)
        across = max(1, min(usual, int(self.width / NARROWEST)))
        room = self.width / across - 0.64
        x_names = thinned(self.x_names, room)
        turned = x_names == list(self.x_names) and need_turning(x_names, room)
        foot = 0.32 + (longest(x_names) * 0.72 if turned else 0.0)
        down = -(-len(self.panels) // across)
        height = max(self.height, foot + LOWEST) * down
        with page(path, self.width, height, foot, len(names)) as (figure, low, high):
            whole = figure.get_size_inches()[1]
            share, gap = 1 / across, (foot + 0.06) / whole
            tall = (high - low + gap) / down - gap
            for index, (title, panel) in enumerate(self.panels.items()):
                row, column = divmod(index, across)
                left = column * share + 0.56 / self.width
                bottom = high - tall - row * (tall + gap)
                axes = figure.add_axes((left, bottom, share - 0.64 / self.width, tall))
                # At the page's edge a long title goes to the left, where there is room.
                wide = canvas.text_width(title, float(axes.title.get_fontsize())) > room + 0.08
                side: Any = "right" if wide and column == across - 1 else "left"
                axes.set_title(canvas.visible(title), loc=side, parse_math=False)
                self._panel(axes, title, panel, names)
                place = index % usual
                y_label = self.y_labels[place] if place < len(self.y_labels) else ""
                is_last = index + across >= len(self.panels)
                finish(axes, self.x_label if is_last else "", y_label, self.y_limits)
                if x_names:
                    axes.set_xticks(list(self.x), labels(x_names), parse_math=False)
                    if turned:
                        turn(axes)
            return saved(figure, path, dict.fromkeys(names, ()), provenance, self.x_label)

    def _panel(
        self,
        axes: Axes,
        title: str,
        panel: Mapping[str, Sequence[Interval]],
        names: Sequence[str],
    ) -> None:
        for curve in self.faint.get(title, ()):
            axes.plot(self.x, curve, color=theme.RULE, linewidth=0.6, zorder=1)
        for name, values in panel.items():
            tone = tone_of(dict.fromkeys(names), name, self.muted)
            place = names.index(name)
            style: Any = DASHES[(place // len(theme.SERIES)) % len(DASHES)]
            marker = MARKERS[place % len(MARKERS)]
            centre = [each.value for each in values]
            axes.plot(
                self.x, centre, color=tone, marker=marker, ms=2.8, linestyle=style, label=name
            )
            low = [each.low for each in values]
            high = [each.high for each in values]
            axes.fill_between(self.x, low, high, color=tone, alpha=0.16, linewidth=0)
        if title in self.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        if title in self.flipped:
            axes.invert_yaxis()
        if not self.x_names:
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


@dataclass(frozen=True)
class Stacked:
    """Bars whose parts add up, a bar a group: counts or shares by kind."""

    groups: Sequence[str]
    parts: Mapping[str, Sequence[float]]
    x_label: str = ""
    y_label: str = ""
    colours: Mapping[str, str] = field(default_factory=dict)
    width: float = theme.DOUBLE_COLUMN
    height: float = 2.0

    def draw(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write the chart; `colours` overrides the usual ones by part."""
        check_series(self.groups, self.parts)
        names, turned, extra = arranged(self.groups, self.width - 0.7)
        foot = 0.3 + extra
        with sheet(path, self.width, self.height, foot, len(self.parts)) as (figure, axes):
            base = np.zeros(len(self.groups))
            for name, values in self.parts.items():
                heights = np.nan_to_num(np.asarray(values, dtype=float))
                tone = self.colours.get(name, tone_of(self.parts, name, ()))
                axes.bar(range(len(base)), heights, 0.74, bottom=base, color=tone, label=name, lw=0)
                base = base + heights
            axes.set_xticks(range(len(self.groups)), names, parse_math=False)
            if turned:
                turn(axes)
            finish(axes, self.x_label, self.y_label, (0.0, None))
            return saved(figure, path, self.parts, provenance, self.y_label)


@dataclass(frozen=True, eq=False)
class Matrix:
    """Numbers as a labelled heat map, `values[row, column]`, with the numbers written in.

    `limits` are the ends of the colour scale; `centred` colours both sides of 0.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Float[np.ndarray, "row column"]
    label: str = ""
    row_title: str = ""
    column_title: str = ""
    limits: tuple[float, float] | None = None
    centred: bool = False
    written: bool = True
    digits: int = 2
    width: float = theme.DOUBLE_COLUMN

    def draw(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write the chart; NaN is an empty cell."""
        canvas.check_suffix(path)
        if not self.rows or not self.columns:
            raise OptionError("an empty matrix cannot be drawn")
        left = 0.3 + longest(self.rows) + (0.16 if self.row_title else 0.0)
        cell = min(0.42, (self.width - left - 0.9) / len(self.columns))
        turned = max(canvas.text_width(name, LABEL) for name in labels(self.columns)) > cell - 0.04
        foot = 0.12 + (longest(self.columns) * 0.74 if turned else 0.1)
        foot += 0.18 if self.column_title else 0.0
        row = min(cell, 0.3)
        height = 0.12 + row * len(self.rows) + foot
        with canvas.paper_style():
            figure = canvas.new_figure(self.width, height)
            across = cell * len(self.columns)
            low, size = foot / height, row * len(self.rows) / height
            axes = figure.add_axes((left / self.width, low, across / self.width, size))
            finite = self.values[np.isfinite(self.values)]
            top = float(np.abs(finite).max()) if finite.size else 1.0
            ends = self.limits or ((-top, top) if self.centred else (0.0, top))
            colours = BOTH_WAYS if self.centred else FILL
            image = axes.imshow(
                self.values, cmap=colours, vmin=ends[0], vmax=ends[1] or 1.0, aspect="auto"
            )
            axes.set_xticks(range(len(self.columns)), labels(self.columns), parse_math=False)
            axes.set_yticks(range(len(self.rows)), labels(self.rows), parse_math=False)
            if turned:
                turn(axes)
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.set_xlabel(self.column_title, parse_math=False)
            axes.set_ylabel(self.row_title, parse_math=False)
            if self.written:
                self._write(axes, ends, cell)
            bar_left = (left + across + 0.12) / self.width
            bar = figure.colorbar(
                image, cax=figure.add_axes((bar_left, low, 0.08 / self.width, size))
            )
            bar.outline.set_visible(False)
            bar.set_label(self.label)
            return canvas.save(figure, path, self.label or "Matrix", provenance or {})

    def _write(self, axes: Axes, ends: tuple[float, float], cell: float) -> None:
        size = min(6.0, 72 * cell / (0.75 * (self.digits + 3)))
        middle = (ends[0] + ends[1]) / 2
        half = max(ends[1] - middle, 1e-12)
        for row, values in enumerate(self.values):
            for column, value in enumerate(values):
                if not np.isfinite(value):
                    continue
                dark = abs(value - middle) / half > 0.6 if self.centred else value > middle
                text = f"{value:.{self.digits}f}".replace("-", "−")
                if not text.strip("−0."):  # no minus before a zero
                    text = text.removeprefix("−")
                tone = theme.PAPER if dark else theme.INK
                axes.text(column, row, text, ha="center", va="center", size=size, color=tone)
