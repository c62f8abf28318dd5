"""Rank and probability by layer: the logit lens on a prompt, over facts, and around an edit.

Each function takes a stored result and writes one file (SVG, PDF or PNG by its suffix). A token
has one colour throughout; ranks are drawn from 1, the top, on a log scale. Errors of all:
OptionError for another suffix or for nothing to draw, StoreError where the file cannot be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from circuits.base.errors import OptionError
from circuits.base.intervals import enough
from circuits.base.origin import model_label, unit_of
from locate.states.observed import drawn_of
from viz import theme
from viz.asked import cut
from viz.paper import canvas
from viz.paper.heat_maps import ONE_COLUMN, layer_labels
from viz.series import LensLines, Line, lens_lines, object_lines

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from locate.changes.rewired import Rewiring
    from locate.states.lens_curves import AverageLens
    from locate.states.lens_result import LensResult

PANEL = 1.28
LOWEST_PANEL = 0.6
TALLEST = 5.6
"""Inches that a single column's figure takes at most, as long as its panels are not too low."""
LEAST_TOP = 0.01
"""What the axis of probabilities reaches at least."""
GUTTER = 0.48


class _Row(NamedTuple):
    """One position: where it is, and the lines of ranks and of probabilities."""

    heading: str
    ranks: Mapping[str, Line]
    probabilities: Mapping[str, Line]


def draw_prompt_lens(
    lens: LensResult,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """The logit lens on one prompt, a row for each position that was read."""
    tokens = lens.prompt.tokens
    headings = [
        f"at {_place(name)} “{canvas.visible(tokens[position].strip())}”"
        for name, position in lens.positions.items()
    ]
    caption = [model_label(lens.provenance), f"“{cut(lens.prompt.text)}”"]
    return _draw(path, lens_lines(lens), headings, title, caption, lens.provenance, width, notes)


def draw_average_lens(
    average: AverageLens,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """Median rank and mean probability over facts or pairs, a row for each position read.

    Bands are 95 % bootstrap intervals over them.
    """
    headings = [f"at the {place}" for place in average.places]
    origin, n = average.provenance, average.n_facts
    unit = unit_of(origin)
    over = f"1 {unit}" if n == 1 else f"{n} {unit}s"
    if enough(n if average.groups is None else len(set(average.groups.tolist()))):
        over += f", bands: 95 % intervals over {drawn_of(origin, unit)}"
    caption = [*canvas.asked(origin), over]
    statistics = ("median ", "mean ")
    return _draw(
        path, lens_lines(average), headings, title, caption, origin, width, notes, statistics
    )


def draw_objects(
    rewiring: Rewiring,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """An edit's old and new object through the layers, before (dashed) and after (solid).

    Median rank and mean probability over the prompts, a row for each position read.
    """
    headings = [f"at {_place(name)}" for name in rewiring.followed.places]
    origin = rewiring.provenance
    edit = origin.get("edit", {})
    n_prompts = len(rewiring.followed.prompts)
    caption = canvas.asked(origin)
    caption += [f"edit by {edit['method']}"] if "method" in edit else []
    caption += [f"{n_prompts} prompt{'s' * (n_prompts != 1)}"]
    statistics = ("median ", "mean ") if n_prompts > 1 else ("", "")
    lines = object_lines(rewiring)
    return _draw(path, lines, headings, title, caption, origin, width, notes, statistics)


def _place(name: str) -> str:
    """A position's name in words."""
    known = {"last": "the last token", "subject last": "the subject's last token"}
    return known.get(name) or canvas.visible(name)


def _draw(
    path: str | Path,
    lines: LensLines,
    headings: Sequence[str],
    title: str | None,
    caption: Sequence[str],
    provenance: Mapping[str, Any],
    width: float,
    notes: bool,
    statistics: tuple[str, str] = ("", ""),
) -> Path:
    canvas.check_suffix(path)
    sides = zip(lines.ranks.values(), lines.probabilities.values(), strict=True)
    rows = [_Row(heading, *side) for heading, side in zip(headings, sides, strict=True)]
    shown = rows[0].ranks if rows else {}
    if not shown:
        raise OptionError("no token to draw")
    with canvas.paper_style():
        n_columns = 1 if width < ONE_COLUMN else 2
        n_panels = len(rows) * (2 // n_columns)
        text = canvas.noted(caption, width, notes)
        entries = [(canvas.token(name), _tone(line), line.dashed) for name, line in shown.items()]
        columns = canvas.legend_columns([name for name, *_ in entries], width)
        foot = 0.1 + 0.13 * len(text) + 0.15 * -(-len(entries) // columns)
        above, below = (0.5 if title else 0.3), 0.42
        # Many panels one above the other are lower ones, so that a column keeps room for text.
        room = (TALLEST - above - foot) / n_panels - below
        panel = PANEL if n_columns == 2 else max(LOWEST_PANEL, min(PANEL, room))
        height = above + (panel + below) * n_panels + foot
        figure = canvas.new_figure(width, height)
        across = (width - 0.1 - n_columns * (GUTTER + 0.04)) / n_columns
        panels = [(row, is_rank) for row in rows for is_rank in (True, False)]
        for index, (row, is_rank) in enumerate(panels):
            down, right = divmod(index, n_columns)
            left = GUTTER + right * (across + GUTTER + 0.04)
            low = height - above - panel - down * (panel + below)
            box = (left / width, low / height, across / width, panel / height)
            axes = figure.add_axes(box)
            _panel(axes, row.ranks if is_rank else row.probabilities, is_rank, across, panel)
            axes.set_xlabel("layer" if down == n_panels - 1 else "")
            _heading(axes, row, statistics, is_rank, across)
        canvas.legend_below(figure, entries, (0.1 + 0.13 * len(text)) / height, columns)
        canvas.page_text(figure, title, text)
        return canvas.save(figure, path, title or "Logit lens", provenance)


def _heading(
    axes: Axes, row: _Row, statistics: tuple[str, str], is_rank: bool, across: float
) -> None:
    """What is drawn and where it was read; without the explanation where there is no room."""
    what = f"{statistics[0]}rank" if is_rank else f"{statistics[1]}probability"
    long = f"{what} {row.heading}".strip()
    longest = f"{long} (1 is the top)"
    fits = is_rank and canvas.text_width(longest, 7.5) <= across
    axes.set_title(longest if fits else long, parse_math=False)


def _tone(line: Line) -> str:
    return theme.SERIES[line.tone % len(theme.SERIES)]


def _panel(
    axes: Axes, lines: Mapping[str, Line], is_rank: bool, across: float, tall: float
) -> None:
    for line in lines.values():
        layers = np.arange(len(line.values)) - 1  # state 0 is the embedding, before layer 0
        # Dashes lie on top: where two lines coincide, both are seen.
        dash: dict[str, Any] = {"linestyle": canvas.DASH, "zorder": 3} if line.dashed else {}
        values = line.values + is_rank
        marked: dict[str, Any] = {"marker": "o", "markersize": 2.6, "clip_on": False}
        axes.plot(layers, values, color=_tone(line), **marked, **dash)
        if line.low is not None and line.high is not None and np.isfinite(line.low).all():
            low, high = line.low + is_rank, line.high + is_rank
            axes.fill_between(layers, low, high, color=_tone(line), alpha=0.18, linewidth=0)
    n_layers = max((len(line.values) for line in lines.values()), default=1) - 1
    room = across / (1.1 * (n_layers + 1))
    axes.set_xticks(*layer_labels(n_layers, 8, "emb.", room))
    if is_rank:
        axes.set_yscale("log")
        axes.set_ylim(bottom=1.0)
        axes.invert_yaxis()
        axes.yaxis.set_major_locator(LogLocator(numticks=4 if tall < 1 else 6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        # Below a hundredth nothing is told apart from zero, and a scale of its own would say it is.
        axes.set_ylim(0.0, max(LEAST_TOP, axes.get_ylim()[1]))
        axes.yaxis.set_major_locator(MaxNLocator(4 if tall < 1 else 6))
