"""Charts for a paper: causal traces, faithfulness against size, ranks by layer.

Each function takes a stored result and writes one file (SVG, PDF or PNG by its suffix). Errors of
all: OptionError for another suffix or for nothing to draw, StoreError where the file cannot be
written. Text from models is shown as it is: no markup is read in it, control characters are
visible (`viz.canvas.visible`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from circuits.errors import OptionError
from viz import canvas, theme
from viz.heat_maps import draw_effects, layer_ticks

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from circuits.evaluate import FaithfulnessCurve
    from locate.lens_average import AverageLens
    from locate.trace_average import AverageTrace
    from locate.tracing import Trace

LONGEST_TOKEN = 18


def draw_trace(
    trace: Trace, path: str | Path, title: str | None = None, width: float = theme.DOUBLE_COLUMN
) -> Path:
    """Causal-tracing heat maps, tokens by layers, one a kind of state, on one colour scale.

    Colour is the indirect effect in probability of the answer: blue where restoring the state
    brings the answer back, orange where it costs. The subject's tokens are bold and marked.
    """
    return draw_effects(
        path,
        effects={kind.label: trace.effect(kind).T for kind in trace.kinds},
        labels=[_token(token) for token in trace.tokens],
        subject=range(trace.subject.start, trace.subject.stop),
        caption=_trace_caption(trace),
        title=title,
        heading=f"Causal trace of {trace.prompt}",
        provenance=trace.provenance,
        width=width,
    )


def draw_average_trace(
    average: AverageTrace,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """Heat maps as `draw_trace` draws them, of the mean effect by role of the position.

    A role that only some prompts have says how many. A ring marks the largest mean of the
    subject's last token and of the prompt's last token: the early and the late site.
    """
    present = np.flatnonzero(average.counts)
    roles, counts = [average.roles[index] for index in present], average.counts[present]
    return draw_effects(
        path,
        effects={kind.label: average.mean(kind)[present] for kind in average.kinds},
        labels=[
            f"{role} ({count})" if count < len(average.p_clean) else str(role)
            for role, count in zip(roles, counts, strict=True)
        ],
        subject=[row for row, role in enumerate(roles) if role.of_subject],
        caption=_average_caption(average),
        title=title,
        heading="Average causal trace",
        provenance=average.provenance,
        width=width,
        ringed=[row for row, role in enumerate(roles) if role.is_site],
    )


def _trace_caption(trace: Trace) -> str:
    origin = trace.provenance
    parts = [str(origin["model"])] if "model" in origin else []
    parts.append(f"answer “{trace.answer.strip()}”")
    parts.append(f"p clean {trace.p_clean:.3f}")
    parts.append(f"p corrupted {trace.p_corrupted:.3f}")
    return _joined(parts, origin)


def _average_caption(average: AverageTrace) -> str:
    origin, n_facts = average.provenance, len(average.p_clean)
    parts = [str(origin["model"])] if "model" in origin else []
    parts.append(f"mean over {n_facts} facts" if n_facts > 1 else "1 fact")
    parts.append(f"p clean {average.p_clean.mean():.3f}")
    parts.append(f"p corrupted {average.p_corrupted.mean():.3f}")
    return _joined(parts, origin) + "  ·  ring: the row's largest"


def _joined(parts: list[str], origin: Mapping[str, Any]) -> str:
    settings = [
        f"{name} {origin[name]}" for name in ("noise", "samples", "window") if name in origin
    ]
    return canvas.visible("  ·  ".join([*parts, *settings]))


def draw_faithfulness(
    curves: Mapping[str, FaithfulnessCurve],
    path: str | Path,
    title: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    width: float = theme.SINGLE_COLUMN,
) -> Path:
    """Faithfulness against the number of edges (log scale), with each point's interval as a band.

    `curves` are named in the legend with their CPR and CMD; one named `random` is drawn grey and
    dashed, as the baseline. Lines at 0 (nothing restored) and 1 (the whole model) orient.
    """
    canvas.check_suffix(path)
    if not curves:
        raise OptionError("no curve to draw")
    with canvas.paper_style():
        height = 2.1 + 0.14 * len(curves) + (0.2 if title else 0.0)
        figure = canvas.new_figure(width, height)
        top = 0.3 if title else 0.1
        foot = 0.44 + 0.14 * len(curves)
        axes = figure.add_axes(
            (0.42 / width, foot / height, 1 - 0.52 / width, 1 - (top + foot) / height)
        )
        for level in (0.0, 1.0):
            axes.axhline(level, color=theme.RULE, linewidth=0.8, zorder=0)
        tones = iter(theme.SERIES * (1 + len(curves) // len(theme.SERIES)))
        for name, curve in curves.items():
            baseline = name == "random"
            _band(axes, name, curve, theme.MUTED if baseline else next(tones), baseline)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("edges in the circuit")
        axes.set_ylabel("faithfulness")
        _legend_below(figure, axes, 0.03 / height)
        canvas.page_text(figure, title)
        return canvas.save(figure, path, title or "Faithfulness", provenance or {})


def _band(axes: Axes, name: str, curve: FaithfulnessCurve, colour: str, dashed: bool) -> None:
    sizes = np.array(curve.sizes, dtype=float)
    value, low, high = (
        np.array([getattr(point, part) for point in curve.faithfulness], dtype=float)
        for part in ("value", "low", "high")
    )
    shown = sizes > 0  # a log scale has no place for the empty circuit, whose f is 0 anyway
    label = f"{name}: CPR {curve.area.value:.2f}, CMD {curve.distance.value:.2f}"
    axes.plot(
        sizes[shown],
        value[shown],
        color=colour,
        linestyle=(0, (3, 1.5)) if dashed else "solid",
        marker="o",
        markersize=2.6,
        label=canvas.visible(label),
    )
    known = shown & np.isfinite(low) & np.isfinite(high)
    axes.fill_between(sizes[known], low[known], high[known], color=colour, alpha=0.18, linewidth=0)


def draw_lens(
    ranks: Mapping[str, Num[np.ndarray, " state"]],
    probabilities: Mapping[str, Float[np.ndarray, " state"]],
    path: str | Path,
    title: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """Logit lens: rank (0 = top, drawn as 1 on a log scale) and probability of tokens by layer.

    Both map a token's name to one value a state, the embedding and what follows each layer; a
    token has the same colour on both sides.
    """
    names = list(dict.fromkeys([*ranks, *probabilities]))
    sides = [
        {name: _Line(np.asarray(values, dtype=float)) for name, values in side.items()}
        for side in (ranks, probabilities)
    ]
    return _draw_lenses(path, names, {"": (sides[0], sides[1])}, title, provenance or {}, width)


def draw_average_lens(
    average: AverageLens,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """Median rank and mean probability as `draw_lens` draws them, a row for each position read.

    Bands are 95 % bootstrap intervals over facts.
    """

    def side(of: Callable[..., Any], place: Any) -> dict[str, _Line]:
        curves = {str(what): of(place, what) for what in average.followed}
        return {name: _Line(each.value, (each.low, each.high)) for name, each in curves.items()}

    rows = {
        f"at the {place}": (
            side(average.median_rank, place),
            side(average.mean_probability, place),
        )
        for place in average.places
    }
    names = [str(what) for what in average.followed]
    return _draw_lenses(path, names, rows, title, average.provenance, width, ("median ", "mean "))


class _Line(NamedTuple):
    """Values by state, and their limits where there are any."""

    values: Float[np.ndarray, " state"]
    limits: tuple[Float[np.ndarray, " state"], Float[np.ndarray, " state"]] | None = None


def _draw_lenses(
    path: str | Path,
    names: Sequence[str],
    rows: Mapping[str, tuple[Mapping[str, _Line], Mapping[str, _Line]]],
    title: str | None,
    provenance: Mapping[str, Any],
    width: float,
    statistics: tuple[str, str] = ("", ""),
) -> Path:
    canvas.check_suffix(path)
    if not names:
        raise OptionError("no token to draw")
    tones = dict(zip(names, theme.SERIES * (1 + len(names) // len(theme.SERIES)), strict=False))
    with canvas.paper_style():
        above, panel, below = (0.5 if title else 0.3), 1.28, 0.5
        height = above + (panel + below) * len(rows) + 0.12
        figure = canvas.new_figure(width, height)
        half = (width - 1.1) / 2
        for index, (heading, sides) in enumerate(rows.items()):
            low = (height - above - panel - index * (panel + below)) / height
            left, right = (
                figure.add_axes((x / width, low, half / width, panel / height))
                for x in (0.48, 0.48 + half + 0.52)
            )
            for axes, lines, offset in ((left, sides[0], 1), (right, sides[1], 0)):
                for name, line in lines.items():
                    _lens_line(axes, line, offset, tones[name], _token(name))
                axes.set_xlabel("layer" if index == len(rows) - 1 else "")
                n_layers = max(len(line.values) for line in lines.values()) - 1 if lines else 0
                ticks = layer_ticks(n_layers, 8)
                axes.set_xticks([-1, *ticks], ["emb.", *map(str, ticks)])
            left.set_yscale("log")
            left.set_ylim(bottom=1.0)
            left.invert_yaxis()
            left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            left.yaxis.set_minor_locator(NullLocator())
            left.set_title(f"{statistics[0]}rank {heading}".strip() + " (1 is the top)")
            right.set_title(f"{statistics[1]}probability {heading}".strip())
            right.set_ylim(bottom=0.0)
        _legend_below(figure, left if sides[0] else right, 0.03 / height, columns=len(names))
        canvas.page_text(figure, title)
        return canvas.save(figure, path, title or "Logit lens", provenance)


def _lens_line(axes: Axes, line: _Line, offset: int, colour: str, label: str) -> None:
    """One token's curve; state 0 is the embedding and stands at -1, before layer 0."""
    layers = np.arange(len(line.values)) - 1
    axes.plot(
        layers,
        line.values + offset,
        color=colour,
        marker="o",
        markersize=2.6,
        label=label,
        clip_on=False,
    )
    if line.limits is not None:
        low, high = (limit + offset for limit in line.limits)
        axes.fill_between(layers, low, high, color=colour, alpha=0.18, linewidth=0)


def _token(text: str) -> str:
    """A token as a label: visible, without the space in front, cut where it is very long."""
    shown = canvas.visible(text.strip(" ") or text.replace(" ", "␣") or "∅")
    return shown if len(shown) <= LONGEST_TOKEN else shown[: LONGEST_TOKEN - 1] + "…"


def _legend_below(figure: Figure, axes: Axes, low: float, columns: int = 1) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="lower center",
        bbox_to_anchor=(0.5, low),
        ncols=min(columns, 6),
        borderpad=0,
        borderaxespad=0,
        handlelength=2.2,
        labelspacing=0.35,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
