"""Shared by the charts of `viz.paper.charts`: pages with a legend below, labels, colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuits.base.errors import OptionError
from viz import theme
from viz.paper import canvas

LINE = 0.13
"""Height of a line of legend, in inches."""
LONGEST_LABEL = 34
LABEL = 6.5
"""Font size of the labels of groups, in points."""
SHORT = 4
"""Names of at most so many letters are thinned out along an axis instead of turned."""


@contextmanager
def page(
    path: str | Path, width: float, height: float, foot: float, n_series: int
) -> Iterator[tuple[Figure, float, float]]:
    """A page in the paper's style, with the shares of its height between legend and top."""
    canvas.check_suffix(path)
    with canvas.paper_style():
        legend = LINE * legend_rows(n_series) + (0.06 if n_series > 1 else 0.0)
        whole = height + legend
        yield canvas.new_figure(width, whole), (foot + legend) / whole, 1 - 0.22 / whole


@contextmanager
def sheet(
    path: str | Path, width: float, height: float, foot: float, n_series: int, left: float = 0.5
) -> Iterator[tuple[Figure, Axes]]:
    """A page with one panel."""
    with page(path, width, height, foot, n_series) as (figure, low, high):
        yield figure, figure.add_axes((left / width, low, 1 - (left + 0.1) / width, high - low))


def saved(
    figure: Figure,
    path: str | Path,
    series: Mapping[str, Any],
    provenance: Mapping[str, Any] | None,
    heading: str,
) -> Path:
    """Legend below where there is more than one series, then the file."""
    if len(series) > 1:
        shown: dict[str, Any] = {}
        for each in figure.axes:
            shown |= dict(zip(*reversed(each.get_legend_handles_labels()), strict=True))
        legend = figure.legend(
            [shown[name] for name in series if name in shown],
            [canvas.visible(name) for name in series if name in shown],
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / figure.get_size_inches()[1]),
            ncols=-(-len(series) // legend_rows(len(series))),
            borderpad=0,
            borderaxespad=0,
            handlelength=1.8,
            columnspacing=1.4,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return canvas.save(figure, path, heading or "Chart", provenance or {})


def legend_rows(n_series: int) -> int:
    """Lines that a legend of so many series takes; none for a single one."""
    return 0 if n_series < 2 else -(-n_series // 5)


def finish(
    axes: Axes, x_label: str, y_label: str, limits: tuple[float | None, float | None]
) -> None:
    """Labels of both axes, and limits of the vertical one where they are given."""
    axes.set_xlabel(x_label, parse_math=False)
    axes.set_ylabel(y_label, parse_math=False)
    if limits != (None, None):
        axes.set_ylim(*limits)


def check_series(groups: Sequence[str], series: Mapping[str, Sequence[Any]]) -> None:
    """OptionError where there is nothing to draw or a series has another length."""
    if not groups or not series:
        raise OptionError("there is nothing to draw")
    for name, values in series.items():
        if len(values) != len(groups):
            raise OptionError(f"series {name!r} has {len(values)} values for {len(groups)} groups")


def tone_of(series: Mapping[str, Any], name: str, muted: Sequence[str]) -> str:
    """Grey for a baseline, else the next colour of the theme."""
    if name in muted:
        return theme.SHARED.colour
    coloured = [each for each in series if each not in muted]
    return theme.SERIES[coloured.index(name) % len(theme.SERIES)]


def labels(names: Sequence[str]) -> list[str]:
    """Names as they are shown: control characters visible, very long ones cut."""
    shown = [canvas.visible(name) for name in names]
    most = LONGEST_LABEL - 1
    return [name if len(name) <= LONGEST_LABEL else f"{name[:most]}…" for name in shown]


def longest(names: Sequence[str]) -> float:
    """Width of the longest label, in inches."""
    return max((canvas.text_width(name, LABEL) for name in labels(names)), default=0.0)


def need_turning(names: Sequence[str], width: float) -> bool:
    """Whether labels side by side would overlap in a width in inches."""
    return longest(names) > width / max(1, len(names)) - 0.04


def thinned(names: Sequence[str], width: float) -> list[str]:
    """Names along an axis with every k-th left, as few gone as let the rest stand side by side.

    Only where all are at most `SHORT`, as layers are: longer ones are turned. The others are empty.
    """
    if max(map(len, names), default=0) > SHORT:
        return list(names)
    step = 1
    for step in range(1, len(names) + 1):
        shown = [name for place, name in enumerate(names) if place % step == 0]
        if not need_turning(shown, width):
            break
    return [name if place % step == 0 else "" for place, name in enumerate(names)]


def arranged(names: Sequence[str], width: float) -> tuple[list[str], bool, float]:
    """Labels for groups side by side: on one line, broken at spaces, or else to be turned.

    Returns them with whether they must be turned and the height that they take, in inches.
    """
    if not need_turning(names, width):
        return labels(names), False, 0.0
    broken = [name.replace(" ", "\n") for name in labels(names)]
    words = [word for name in broken for word in name.split("\n")]
    room = width / max(1, len(names)) - 0.04
    if max(canvas.text_width(word, LABEL) for word in words) <= room:
        return broken, False, 0.11 * max(name.count("\n") for name in broken)
    return labels(names), True, longest(names) * 0.72


def turn(axes: Axes) -> None:
    """Write the labels of the horizontal axis slantwise."""
    for label in axes.get_xticklabels():
        label.set_rotation(45)
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
