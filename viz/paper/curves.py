"""Charts for a paper: causal traces, and faithfulness against size.

Each function takes a stored result and writes one file (SVG, PDF or PNG by its suffix). Errors of
all: OptionError for another suffix or for nothing to draw, StoreError where the file cannot be
written. Text from models is shown as it is: no markup is read in it, control characters are
visible (`viz.paper.canvas.visible`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from circuits.base.errors import OptionError
from circuits.base.origin import model_label
from viz import theme
from viz.paper import canvas
from viz.paper.heat_maps import draw_effects
from viz.series import effect_maps

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from circuits.graph.curve import FaithfulnessCurve, FaithfulnessCurves
    from locate.states.trace_result import Trace
    from locate.states.trace_roles import AverageTrace


def draw_trace(
    trace: Trace,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """Causal-tracing heat maps, tokens by layers, one a kind of state, on one colour scale.

    Colour is the indirect effect in probability of the answer: blue where restoring the state
    brings the answer back, orange where it costs. The subject's tokens are bold and marked.
    """
    maps = effect_maps(trace)
    return draw_effects(
        path,
        effects=maps.effects,
        labels=[canvas.token(token) for token in maps.rows],
        subject=maps.subject,
        caption=_trace_caption(trace),
        title=title,
        heading=f"Causal trace of {trace.prompt}",
        provenance=trace.provenance,
        width=width,
        measure=maps.measure,
        notes=notes,
    )


def draw_average_trace(
    average: AverageTrace,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """Heat maps as `draw_trace` draws them, of the mean effect by role of the position.

    A role that only some prompts have says how many. A ring marks the largest mean of the
    subject's last token and of the prompt's last token: the early and the late site.
    """
    maps, counts = effect_maps(average), average.counts[average.counts > 0]
    return draw_effects(
        path,
        effects=maps.effects,
        labels=[
            f"{role} ({count})" if count < len(average.p_clean) else role
            for role, count in zip(maps.rows, counts, strict=True)
        ],
        subject=maps.subject,
        caption=_average_caption(average),
        title=title,
        heading="Average causal trace",
        provenance=average.provenance,
        width=width,
        measure=maps.measure,
        ringed=maps.sites,
        notes=notes,
    )


def _trace_caption(trace: Trace) -> str:
    origin = trace.provenance
    parts = [label] if (label := model_label(origin)) else []
    parts.append(f"answer “{trace.answer.strip()}”")
    parts.append(f"p clean {trace.p_clean:.3f}")
    parts.append(f"p corrupted {trace.p_corrupted:.3f}")
    return _joined(parts, origin)


def _average_caption(average: AverageTrace) -> str:
    origin, n = average.provenance, len(average.p_clean)
    parts = canvas.asked(origin)
    parts.append(f"mean over {n} {average.unit}s" if n > 1 else f"1 {average.unit}")
    parts.append(f"{average.measure} clean {average.p_clean.mean():.3f}")
    parts.append(f"{average.measure} corrupted {average.p_corrupted.mean():.3f}")
    return _joined(parts, origin) + "  ·  ring: the row's largest"


def _joined(parts: list[str], origin: Mapping[str, Any]) -> str:
    settings = [
        f"{name} {origin[name]}" for name in ("noise", "samples", "window") if name in origin
    ]
    return canvas.joined([*parts, *settings])


def draw_faithfulness(
    found: FaithfulnessCurves,
    path: str | Path,
    title: str | None = None,
    width: float = theme.SINGLE_COLUMN,
    notes: bool = True,
) -> Path:
    """Faithfulness against the number of edges (log scale), with each point's interval as a band.

    Curves are named in the legend with their CPR or CMD, by their ranking; one named `random` is
    drawn grey and dashed, as the baseline. Lines at 0 (nothing restored) and 1 (the whole model)
    orient.
    """
    canvas.check_suffix(path)
    curves, origin = found.curves, found.provenance
    if not curves:
        raise OptionError("no curve to draw")
    with canvas.paper_style():
        lines = canvas.noted(_curve_caption(origin), width, notes)
        entries = _curve_entries(curves)
        columns = canvas.legend_columns([name for name, *_ in entries], width)
        below = 0.1 + 0.13 * len(lines)
        foot = below + 0.42 + 0.15 * -(-len(entries) // columns)
        top = 0.3 if title else 0.1
        height = top + 1.55 + foot
        figure = canvas.new_figure(width, height)
        axes = figure.add_axes(
            (0.42 / width, foot / height, 1 - 0.52 / width, 1 - (top + foot) / height)
        )
        for level in (0.0, 1.0):
            axes.axhline(level, color=theme.RULE, linewidth=0.8, zorder=0)
        for (_, colour, dashed), curve in zip(entries, curves.values(), strict=True):
            _band(axes, curve, colour, dashed)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("edges in the circuit")
        axes.set_ylabel("faithfulness")
        canvas.legend_below(figure, entries, below / height, columns)
        canvas.page_text(figure, title, lines)
        return canvas.save(figure, path, title or "Faithfulness", origin)


def _curve_caption(origin: Mapping[str, Any]) -> str:
    """Model, relation, how edges are ranked, and what the bands cover."""
    parts = canvas.asked(origin)
    ranking = origin.get("selection", {}).get("ranking")
    ranked = {"absolute": "edges ranked by |score|", "signed": "edges ranked by score"}
    parts += [ranked[ranking]] if ranking in ranked else []
    over = f"over {origin['pairs']} pairs" if "pairs" in origin else "over pairs"
    over = f"over {origin['drawn']}" if "drawn" in origin else over
    over += f" ({origin['measured_on']})" if "measured_on" in origin else ""
    return canvas.joined([*parts, f"bands: 95 % intervals {over}"])


def _curve_entries(curves: Mapping[str, FaithfulnessCurve]) -> list[canvas.Entry]:
    """The legend: a name with its areas, a colour, and dashes for the baseline."""
    tones = iter(theme.SERIES * (1 + len(curves) // len(theme.SERIES)))
    entries = []
    for name, curve in curves.items():
        baseline = name == "random"
        tone = theme.MUTED if baseline else next(tones)
        entries.append((canvas.visible(curve.legend(name)), tone, baseline))
    return entries


def _band(axes: Axes, curve: FaithfulnessCurve, colour: str, dashed: bool) -> None:
    sizes = np.array(curve.sizes, dtype=float)
    value, low, high = (
        np.array([getattr(point, part) for point in curve.faithfulness], dtype=float)
        for part in ("value", "low", "high")
    )
    shown = sizes > 0  # a log scale has no place for the empty circuit, whose f is 0 anyway
    dash: dict[str, Any] = {"linestyle": canvas.DASH} if dashed else {}
    axes.plot(sizes[shown], value[shown], color=colour, marker="o", markersize=2.6, **dash)
    known = shown & np.isfinite(low) & np.isfinite(high)
    axes.fill_between(sizes[known], low[known], high[known], color=colour, alpha=0.18, linewidth=0)
