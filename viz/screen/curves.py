"""Curves on the screen: ranks and probabilities by layer, faithfulness against size, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from circuits.base.errors import OptionError
from viz import theme
from viz.screen.circuit import with_title
from viz.screen.style import axis, new_figure, panel_title, plain, rgb, token_label
from viz.series import LensLines, Line, lens_lines, object_lines

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from circuits.graph.curve import FaithfulnessCurves
    from locate.changes.rewired import Rewiring
    from locate.features.carriers import Carriers
    from locate.states.lens_curves import AverageLens
    from locate.states.lens_result import LensResult
    from locate.states.logit_attribution import LogitAttribution

MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
DASHES = ("solid", "5px,3px", "1px,3px", "7px,3px,1px,3px", "solid", "5px,3px")


def lens_figure(
    lens: LensResult | AverageLens | LensLines, place: str | None = None, title: str | None = None
) -> go.Figure:
    """Logit lens: rank (1 is the top, on a log scale) and probability by layer, side by side.

    `place` is the position read, by default the first. Bands are 95 % bootstrap intervals.
    """
    lines = lens if isinstance(lens, LensLines) else lens_lines(lens)
    chosen = _read(lines, place)
    figure = _two_panels("rank (1 is the top)", "probability")
    _add_side(figure, lines.ranks[chosen], left=True)
    _add_side(figure, lines.probabilities[chosen], left=False)
    return with_title(figure, title)


def followed_figure(
    result: Rewiring, place: str | None = None, title: str | None = None
) -> go.Figure:
    """The old and the new object through the layers, before (dashed) and after (solid)."""
    lines = object_lines(result)
    chosen = _read(lines, place)
    figure = _two_panels("median rank (1 is the top)", "mean probability")
    for left, side in ((True, lines.ranks[chosen]), (False, lines.probabilities[chosen])):
        for name in sorted(side, key=lambda name: -side[name].tone):  # the old object first
            line = side[name]
            look = ("5px,3px", "circle-open") if line.dashed else ("solid", "circle")
            _add_line(figure, name, line, left, *look)
    return with_title(figure, title)


def _read(lines: LensLines, place: str | None) -> str:
    """The position asked for, by default the first; OptionError for one that was not read."""
    chosen = lines.places[0] if place is None else place
    if chosen not in lines.places:
        raise OptionError(f"no position {chosen!r} was read, only {', '.join(lines.places)}")
    return chosen


def curve_figure(found: FaithfulnessCurves, title: str | None = None) -> go.Figure:
    """Faithfulness against the number of edges (log scale) with bands; `random` is the baseline."""
    curves = found.curves
    if not curves:
        raise OptionError("no curve to draw")
    figure = new_figure(height=340, margin={"l": 56, "r": 16, "t": 20, "b": 76})
    figure.update_layout(
        xaxis=axis(type="log", title={"text": "edges in the circuit"}, dtick=1),
        yaxis=axis(title={"text": "faithfulness"}),
    )
    for level in (0, 1):
        figure.add_hline(y=level, line={"color": theme.RULE, "width": 1}, layer="below")
    for index, (name, curve) in enumerate(curves.items()):
        baseline = name == "random"
        sizes = np.array(curve.sizes, dtype=float)
        points = {
            part: np.array([getattr(point, part) for point in curve.faithfulness], dtype=float)
            for part in ("value", "low", "high")
        }
        shown = sizes > 0
        colour = theme.MUTED if baseline else theme.SERIES[index % len(theme.SERIES)]
        band(figure, sizes[shown], points["low"][shown], points["high"][shown], colour)
        figure.add_scatter(
            x=sizes[shown],
            y=points["value"][shown],
            name=plain(curve.legend(name)),
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": "5px,3px" if baseline else "solid"},
            marker={"size": 6, "symbol": MARKS[index % len(MARKS)]},
            hovertemplate="%{x:,.0f} edges<br>faithfulness %{y:.3f}<extra></extra>",
        )
    return with_title(figure, title)


def attribution_figure(
    names: Sequence[str],
    values: Sequence[float],
    title: str | None = None,
    most: int = 24,
    unit: str = "logits",
    along: str = "logits, answer minus foil",
) -> go.Figure:
    """What each source adds to the logit difference, largest first: blue for the answer.

    Or to anything else that is a sum: `unit` is what a bar counts, `along` the title below.
    """
    pairs = sorted(zip(names, values, strict=True), key=lambda pair: -abs(pair[1]))[:most]
    figure = new_figure(
        height=max(220, 60 + 20 * len(pairs)), margin={"l": 72, "r": 16, "t": 12, "b": 44}
    )
    styles = [theme.edge_style(value) for _, value in pairs]
    figure.add_bar(
        x=[value for _, value in pairs],
        y=list(range(len(pairs))),
        orientation="h",
        marker={
            "color": [style.colour for style in styles],
            "pattern": {
                "shape": ["" if style.dash is None else "/" for style in styles],
                "fgcolor": theme.PAPER,
                "size": 5,
            },
        },
        customdata=[plain(name) for name, _ in pairs],
        hovertemplate=f"%{{customdata}}<br>%{{x:.3f}} {unit}<extra></extra>",
    )
    figure.update_layout(
        xaxis=axis(title={"text": along}, zeroline=True, zerolinecolor=theme.MUTED),
        yaxis=axis(
            autorange="reversed",
            showgrid=False,
            ticks="",
            tickvals=list(range(len(pairs))),
            ticktext=[plain(name) for name, _ in pairs],
            tickfont={"size": 11, "color": theme.INK},
        ),
    )
    return with_title(figure, title)


def contributions_figure(found: LogitAttribution, title: str | None = None) -> go.Figure:
    """Direct logit attribution: the mean contribution of each source, largest first."""
    return attribution_figure(found.wiring.src_names, found.mean().tolist(), title)


def carriers_figure(found: Carriers, title: str | None = None) -> go.Figure:
    """What carries an edge between features, largest part first; of several edges the shares."""
    if len(found.total) == 1:
        parts = found.carried()
        along = "part of the edge's weight"
        return attribution_figure(list(parts), list(parts.values()), title, unit="", along=along)
    shares = {name: 100 * share for name, share in found.shares().items() if share}
    along = f"share of what {len(found.total):,} edges carry, %"
    return attribution_figure(list(shares), list(shares.values()), title, unit="%", along=along)


def _two_panels(left: str, right: str) -> go.Figure:
    figure = new_figure(height=340, margin={"l": 60, "r": 16, "t": 30, "b": 76})
    titles = {"text": "layer", "font": {"size": 12, "color": theme.MUTED}}
    figure.update_layout(
        xaxis=axis(domain=[0, 0.46], title=titles),
        xaxis2=axis(domain=[0.54, 1], anchor="y2", title=titles),
        yaxis=axis(type="log", autorange="reversed", dtick=1),
        yaxis2=axis(anchor="x2", rangemode="tozero"),
    )
    panel_title(figure, left, 0.0)
    panel_title(figure, right, 0.54)
    return figure


def _add_side(figure: go.Figure, lines: Mapping[str, Line], left: bool) -> None:
    for name, line in lines.items():
        style = line.tone % len(MARKS)
        _add_line(figure, name, line, left, DASHES[style], MARKS[style])


def _add_line(figure: go.Figure, name: str, line: Line, left: bool, dash: str, mark: str) -> None:
    """One curve in the left (ranks, shown from 1) or right panel; state 0 is the embedding."""
    offset, colour = float(left), theme.SERIES[line.tone % len(theme.SERIES)]
    layers = np.arange(len(line.values)) - 1.0
    axes = {} if left else {"xaxis": "x2", "yaxis": "y2"}
    if line.low is not None and line.high is not None:
        band(figure, layers, line.low + offset, line.high + offset, colour, **axes)
    names = ["embedding" if layer < 0 else f"layer {layer:.0f}" for layer in layers]
    label = token_label(name)
    figure.add_scatter(
        x=layers,
        y=line.values + offset,
        name=label,
        legendgroup=label,
        showlegend=left,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 6.5, "symbol": mark, "color": colour},
        customdata=names,
        text=[label] * len(names),
        hovertemplate=f"%{{text}}<br>%{{customdata}}<br>%{{y:{',.0f' if left else '.4f'}}}"
        "<extra></extra>",
        **axes,
    )


def band(
    figure: go.Figure,
    x: Float[np.ndarray, " point"],
    low: Float[np.ndarray, " point"],
    high: Float[np.ndarray, " point"],
    colour: str,
    **axes: Any,
) -> None:
    """A band between two curves, where both are known."""
    known = np.isfinite(low) & np.isfinite(high)
    if not known.any():
        return
    figure.add_scatter(
        x=np.concatenate([x[known], x[known][::-1]]),
        y=np.concatenate([low[known], high[known][::-1]]),
        fill="toself",
        fillcolor=rgb(colour, 0.18),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        **axes,
    )
