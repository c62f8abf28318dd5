"""Charts for a paper: causal traces, faithfulness against size, ranks by layer.

Each function takes a stored result and writes one file (SVG, PDF or PNG by its suffix). Errors of
all: OptionError for another suffix or for nothing to draw, StoreError where the file cannot be
written. Text from models is shown as it is: no markup is read in it, control characters are
visible (`viz.canvas.visible`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from circuits.errors import OptionError
from viz import canvas, theme

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from circuits.evaluate import FaithfulnessCurve
    from locate.tracing import Trace

TOKEN_ROW = 0.15
LONGEST_TOKEN = 18
CAPTION = 6.5
TRACED = {"resid": "residual stream", "mlp": "MLP output", "attn": "attention output"}
EFFECT_COLOURS = LinearSegmentedColormap.from_list(
    "effect", [theme.OPPOSES.colour, theme.PAPER, theme.SUPPORTS.colour, "#00324F"]
)


def draw_trace(
    trace: Trace, path: str | Path, title: str | None = None, width: float = theme.DOUBLE_COLUMN
) -> Path:
    """Causal-tracing heat maps, tokens by layers, one a kind of state, on one colour scale.

    Colour is the indirect effect in probability of the answer: blue where restoring the state
    brings the answer back, orange where it costs. The subject's tokens are bold and marked.
    """
    canvas.check_suffix(path)
    if not trace.kinds:
        raise OptionError("the trace holds no kind of state: nothing to draw")
    effects = {str(kind): trace.effect(kind).T for kind in trace.kinds}
    labels = [_token(token) for token in trace.tokens]
    with canvas.paper_style():
        caption = canvas.wrapped(_trace_caption(trace), CAPTION, width - 0.16)
        # A long prompt gets lower rows rather than a page that is too high.
        row = min(TOKEN_ROW, 7.0 / len(labels))
        top, foot = (0.55 if title else 0.3), 0.5 + 0.13 * len(caption)
        size = min(CAPTION, 60 * row)
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
            axes.set_title(TRACED.get(kind, kind), parse_math=False)
            if index:
                axes.set_yticks([])
            else:
                axes.set_yticks(range(len(labels)), labels, size=size, parse_math=False)
                _mark_subject(axes, trace.subject.start, trace.subject.stop)
        right = gutter + panel * len(effects)
        rectangle = (right / width, foot / height, 0.08 / width, 1 - (top + foot) / height)
        bar = figure.colorbar(image, cax=figure.add_axes(rectangle))
        bar.ax.set_ylim(lowest, largest)
        bar.set_label("indirect effect (probability)")
        bar.outline.set_visible(False)
        _page_text(figure, title, caption)
        heading = title or f"Causal trace of {trace.prompt}"
        return canvas.save(figure, path, heading, trace.provenance)


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
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xticks(np.arange(effect.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(effect.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=theme.PAPER, linewidth=0.5)
    axes.tick_params(which="both", left=False, length=0)
    axes.spines[:].set_visible(False)
    return image


def _mark_subject(axes: Axes, start: int, stop: int) -> None:
    for label in axes.get_yticklabels()[start:stop]:
        label.set_fontweight("bold")
    axes.plot(
        [-0.012] * 2,
        [start - 0.4, stop - 0.6],
        transform=axes.get_yaxis_transform(),
        color=theme.INK,
        linewidth=1.6,
        solid_capstyle="butt",
        clip_on=False,
    )


def _trace_caption(trace: Trace) -> str:
    origin = trace.provenance
    parts = [str(origin["model"])] if "model" in origin else []
    parts.append(f"answer “{trace.answer.strip()}”")
    parts.append(f"p clean {trace.p_clean:.3f}")
    parts.append(f"p corrupted {trace.p_corrupted:.3f}")
    parts += [f"{name} {origin[name]}" for name in ("noise", "samples", "window") if name in origin]
    return canvas.visible("  ·  ".join(parts))


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
        _page_text(figure, title, [])
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
    ranks: Mapping[str, Float[np.ndarray, " layer"]],
    probabilities: Mapping[str, Float[np.ndarray, " layer"]],
    path: str | Path,
    title: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    width: float = theme.DOUBLE_COLUMN,
) -> Path:
    """Logit lens: rank (0 = top, drawn as 1 on a log scale) and probability of tokens by layer.

    Both map a token's name to one value a layer; a token has the same colour on both sides.
    """
    canvas.check_suffix(path)
    names = list(dict.fromkeys([*ranks, *probabilities]))
    if not names:
        raise OptionError("no token to draw")
    tones = dict(zip(names, theme.SERIES * (1 + len(names) // len(theme.SERIES)), strict=False))
    with canvas.paper_style():
        height = 2.2 + (0.2 if title else 0.0)
        figure = canvas.new_figure(width, height)
        top, foot = (0.5 if title else 0.3) / height, 0.62 / height
        half = (width - 1.1) / 2
        left, right = (
            figure.add_axes((x / width, foot, half / width, 1 - top - foot))
            for x in (0.48, 0.48 + half + 0.52)
        )
        for axes, series, offset in ((left, ranks, 1), (right, probabilities, 0)):
            for name, values in series.items():
                axes.plot(
                    np.arange(len(values)),
                    np.asarray(values, dtype=float) + offset,
                    color=tones[name],
                    marker="o",
                    markersize=2.6,
                    label=_token(name),
                    clip_on=False,
                )
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        left.set_yscale("log")
        left.set_ylim(bottom=1.0)
        left.invert_yaxis()
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        left.yaxis.set_minor_locator(NullLocator())
        left.set_title("rank (1 is the top)")
        right.set_title("probability")
        right.set_ylim(bottom=0.0)
        _legend_below(figure, left if ranks else right, 0.03 / height, columns=len(names))
        _page_text(figure, title, [])
        return canvas.save(figure, path, title or "Logit lens", provenance or {})


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


def _page_text(figure: Figure, title: str | None, caption: list[str]) -> None:
    width, height = figure.get_size_inches()
    for index, line in enumerate(reversed(caption)):
        figure.text(
            0.08 / width,
            (0.06 + 0.13 * index) / height,
            line,
            size=CAPTION,
            color=theme.MUTED,
            parse_math=False,
        )
    if title:
        figure.text(
            0.08 / width,
            1 - 0.08 / height,
            canvas.visible(title),
            size=9.0,
            weight="bold",
            va="top",
            parse_math=False,
        )
