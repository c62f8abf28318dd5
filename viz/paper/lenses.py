"""Rank and probability by layer: the logit lens on a prompt, over facts, and around an edit.

Each function takes a stored result and writes one file (SVG, PDF or PNG by its suffix). A token
has one colour throughout; ranks are drawn from 1, the top, on a log scale. Errors of all:
OptionError for another suffix or for nothing to draw, StoreError where the file cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from circuits.base.errors import OptionError
from viz import theme
from viz.paper import canvas
from viz.paper.heat_maps import layer_labels

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from locate.changes.rewiring import Rewiring
    from locate.states.lens import LensResult
    from locate.states.lens_average import AverageLens

PANEL = 1.28
GUTTER = 0.48
ONE_COLUMN = 4.5
"""Pages narrower than this, in inches, have the two sides one above the other."""


class _Line(NamedTuple):
    """Values by state, their limits where there are any; lines of one `thing` share a colour."""

    values: Float[np.ndarray, " state"]
    limits: tuple[Float[np.ndarray, " state"], Float[np.ndarray, " state"]] | None = None
    dashed: bool = False
    thing: str = ""


Lines = Mapping[str, _Line]


class _Row(NamedTuple):
    """One position: where it is, and the lines of ranks and of probabilities."""

    heading: str
    ranks: Lines
    probabilities: Lines


def draw_lens(
    ranks: Mapping[str, Num[np.ndarray, " state"]],
    probabilities: Mapping[str, Float[np.ndarray, " state"]],
    path: str | Path,
    title: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """Rank (0 = top, drawn as 1) and probability of tokens by layer.

    Both map a token's name to one value a state, the embedding and what follows each layer.
    """
    row = _Row("", _lines(ranks), _lines(probabilities))
    return _draw(path, [row], title, "", provenance or {}, width)


def draw_prompt_lens(
    lens: LensResult,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """The logit lens on one prompt, a row for each position that was read."""

    def side(values: np.ndarray, place: int) -> Lines:
        return _lines({name: values[:, place, at] for at, name in enumerate(lens.labels)})

    rows = []
    for place, (name, position) in enumerate(lens.positions.items()):
        where = f"at {_place(name)} “{canvas.visible(lens.prompt.tokens[position].strip())}”"
        rows.append(_Row(where, side(lens.rank, place), side(lens.probability, place)))
    caption = [str(lens.provenance.get("model", "")), f"“{canvas.cut(lens.prompt.text)}”"]
    return _draw(path, rows, title, _joined(caption), lens.provenance, width)


def draw_average_lens(
    average: AverageLens,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """Median rank and mean probability over facts, a row for each position read.

    Bands are 95 % bootstrap intervals over facts.
    """

    def side(of: Callable[..., Any], place: Any) -> Lines:
        curves = {str(what): of(place, what) for what in average.followed}
        return {name: _Line(each.value, (each.low, each.high)) for name, each in curves.items()}

    rows = [
        _Row(
            f"at the {place}",
            side(average.median_rank, place),
            side(average.mean_probability, place),
        )
        for place in average.places
    ]
    origin, n_facts = average.provenance, average.n_facts
    over = f"{n_facts} facts, bands: 95 % intervals over facts" if n_facts > 1 else "1 fact"
    caption = [*(str(origin[key]) for key in ("model", "relation") if key in origin), over]
    return _draw(path, rows, title, _joined(caption), origin, width, ("median ", "mean "))


def draw_objects(
    rewiring: Rewiring,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """An edit's old and new object through the layers, before (dashed) and after (solid).

    Median rank and mean probability over the prompts, a row for each position read.
    """
    followed = rewiring.followed
    ranks, probabilities = np.median(followed.rank, 1), followed.probability.mean(1)

    def side(values: np.ndarray, place: int) -> Lines:
        found = {}
        for at, label in ((1, "new object"), (0, "old object")):
            for model, when in enumerate(("before", "after")):
                line = values[model, :, place, at].astype(np.float64)
                found[f"{label}, {when}"] = _Line(line, None, model == 0, label)
        return found

    rows = [
        _Row(f"at {_place(name)}", side(ranks, place), side(probabilities, place))
        for place, name in enumerate(followed.places)
    ]
    origin = rewiring.provenance
    edit = origin.get("edit", {})
    n_prompts = len(followed.prompts)
    caption = [str(origin[key]) for key in ("model", "relation") if key in origin]
    caption += [f"edit by {edit['method']}"] if "method" in edit else []
    caption += [f"{n_prompts} prompt{'s' * (n_prompts != 1)}"]
    statistics = ("median ", "mean ") if n_prompts > 1 else ("", "")
    return _draw(path, rows, title, _joined(caption), origin, width, statistics)


def _place(name: str) -> str:
    """A position's name in words."""
    known = {"last": "the last token", "subject last": "the subject's last token"}
    return known.get(name) or canvas.visible(name)


def _lines(values: Mapping[str, Num[np.ndarray, " state"]]) -> Lines:
    return {name: _Line(np.asarray(each, dtype=float)) for name, each in values.items()}


def _joined(parts: Sequence[str]) -> str:
    return canvas.visible("  ·  ".join(part for part in parts if part))


def _draw(
    path: str | Path,
    rows: Sequence[_Row],
    title: str | None,
    caption: str,
    provenance: Mapping[str, Any],
    width: float,
    statistics: tuple[str, str] = ("", ""),
) -> Path:
    canvas.check_suffix(path)
    shown: dict[str, _Line] = {}
    for row in rows:
        shown |= {**row.probabilities, **row.ranks}
    if not shown:
        raise OptionError("no token to draw")
    with canvas.paper_style():
        n_columns = 1 if width < ONE_COLUMN else 2
        n_panels = len(rows) * (2 // n_columns)
        lines = canvas.wrapped(caption, canvas.CAPTION, width - 0.16)
        entries = _entries(shown)
        columns = canvas.legend_columns([name for name, *_ in entries], width)
        foot = 0.1 + 0.13 * len(lines) + 0.15 * -(-len(entries) // columns)
        above, below = (0.5 if title else 0.3), 0.5
        height = above + (PANEL + below) * n_panels + foot
        figure = canvas.new_figure(width, height)
        across = (width - 0.1 - n_columns * (GUTTER + 0.04)) / n_columns
        panels = [(row, is_rank) for row in rows for is_rank in (True, False)]
        tones = _tones(shown)
        for index, (row, is_rank) in enumerate(panels):
            down, right = divmod(index, n_columns)
            left = GUTTER + right * (across + GUTTER + 0.04)
            low = height - above - PANEL - down * (PANEL + below)
            box = (left / width, low / height, across / width, PANEL / height)
            axes = figure.add_axes(box)
            _panel(axes, row.ranks if is_rank else row.probabilities, tones, is_rank, across)
            axes.set_xlabel("layer" if down == n_panels - 1 else "")
            _heading(axes, row, statistics, is_rank, across)
        canvas.legend_below(figure, entries, (0.1 + 0.13 * len(lines)) / height, columns)
        canvas.page_text(figure, title, lines)
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


def _tones(shown: Lines) -> dict[str, str]:
    """A colour a thing; before and after share one."""
    things = list(dict.fromkeys(line.thing or name for name, line in shown.items()))
    tones = theme.SERIES * (1 + len(things) // len(theme.SERIES))
    return {name: tones[things.index(line.thing or name)] for name, line in shown.items()}


def _panel(
    axes: Axes, lines: Lines, tones: Mapping[str, str], is_rank: bool, across: float
) -> None:
    for name, line in lines.items():
        layers = np.arange(len(line.values)) - 1  # state 0 is the embedding, before layer 0
        # Dashes lie on top: where two lines coincide, both are seen.
        dash: dict[str, Any] = {"linestyle": canvas.DASH, "zorder": 3} if line.dashed else {}
        values = line.values + is_rank
        marked: dict[str, Any] = {"marker": "o", "markersize": 2.6, "clip_on": False}
        axes.plot(layers, values, color=tones[name], **marked, **dash)
        if line.limits is not None and np.isfinite(line.limits[0]).all():
            low, high = (limit + is_rank for limit in line.limits)
            axes.fill_between(layers, low, high, color=tones[name], alpha=0.18, linewidth=0)
    n_layers = max((len(line.values) for line in lines.values()), default=1) - 1
    room = across / (1.1 * (n_layers + 1))
    axes.set_xticks(*layer_labels(n_layers, 8, "emb.", room))
    if is_rank:
        axes.set_yscale("log")
        axes.set_ylim(bottom=1.0)
        axes.invert_yaxis()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0.0)


def _entries(shown: Lines) -> list[canvas.Entry]:
    tones = _tones(shown)
    return [(canvas.token(name), tones[name], line.dashed) for name, line in shown.items()]
