"""Pages of one picture and its table: traces, lenses, attributions, and any other kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

from circuits.base.display import visible
from circuits.files.kinds import named
from viz.app import parts
from viz.app.details import known_facts
from viz.app.library import Entry
from viz.app.state import ViewState
from viz.app.terms import heads_of
from viz.asked import metric_name
from viz.screen.curves import lens_figure
from viz.screen.heat_maps import trace_figure
from viz.series import LensLines, lens_lines, lens_rows

MOST_ROWS = 5000
MOST_PARTS = 6


P = "p of the answer"


def plain_page(
    title: str,
    subtitle: str,
    picture: Any,
    columns: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    about: Sequence[Any],
    lead: str = "",
) -> html.Div:
    """What was found and its picture at the left, summary and table at the right."""
    return html.Div(
        [
            html.Section(
                [
                    parts.picture_head(
                        visible(title),
                        visible(subtitle),
                        lead=lead,
                        heads=heads_of(columns),
                    ),
                    html.Div(picture, className="picture-pane scroll"),
                ],
                className="centre",
            ),
            html.Aside(
                [
                    html.Div(list(about), className="right-top"),
                    html.Div(
                        html.Div(
                            parts.table("plain-table", columns, rows[:MOST_ROWS]),
                            className="tab-body",
                        ),
                        className="right-bottom",
                    ),
                ],
                className="right wide",
            ),
        ],
        className="work plain",
    )


def trace_page(entry: Entry, value: Any, state: ViewState) -> html.Div:
    """Causal tracing: heat maps by kind of state, and all numbers."""
    figure = trace_figure(value)
    n_rows = len(figure.data[0].z)
    figure.update_layout(height=120 + n_rows * min(46, max(22, 520 // n_rows)))
    rows = [{**row, "where": row.get("token", row.get("role", ""))} for row in value.rows()]
    rows = [{**row, "where": parts.token(str(row["where"]))} for row in rows]
    rows.sort(key=lambda row: -row["effect"])
    average = not hasattr(value, "prompt")
    error = [
        parts.column("low", "from", 64, numeric=True),
        parts.column("high", "to", 64, numeric=True),
    ]
    if not average:
        error = [parts.column("standard_error", "± s.e.", 64, numeric=True)]
    columns = [
        parts.column("kind", "state", 66),
        parts.column("layer", "layer", 58, numeric=True),
        parts.column("where", "position" if average else "token", 120),
        parts.column("effect", "effect", 70, numeric=True),
        *error,
    ]
    origin = value.provenance
    if average:
        relation = entry.about.get("relation", "")
        title = f"Average causal trace{f' of {relation}' if relation else ''}"
        clean, corrupted = float(value.p_clean.mean()), float(value.p_corrupted.mean())
        facts: list[tuple[str, Any]] = [(f"{value.unit}s", str(len(value.p_clean)))]
        what = P if value.measure == "p" else metric_name(value.measure)
    else:
        title, clean, corrupted, what = value.prompt, value.p_clean, value.p_corrupted, P
        facts = [("answer", value.answer)]
    facts += [
        (f"{what}, clean", f"{clean:.4f}"),
        (f"{what}, {'subject ' if what == P else ''}corrupted", f"{corrupted:.4f}"),
        *((name, str(origin[name])) for name in ("noise", "samples", "window") if name in origin),
    ]
    best = rows[0] if rows else None
    if best is not None:
        facts.append(
            (
                "largest effect",
                f"{best['effect']:.3f}: {best['kind']}, layer {best['layer']}, {best['where']}",
            )
        )
    subtitle = "Blue: restoring this state brings the answer back. Orange: it costs."
    if not (average and value.places):
        subtitle += " The subject's rows are bold."
    about = known_facts(facts, origin)
    picture = fitted(figure, title)
    return plain_page(title, subtitle, picture, columns, rows, about, value.says())


def lens_page(entry: Entry, value: Any, state: ViewState) -> html.Div:
    """Logit lens: rank and probability by layer, at a position that can be chosen."""
    lines = lens_lines(value)
    place = state.place if state.place in lines.places else lines.places[0]
    title = value.heading() or entry.name
    if not hasattr(value, "prompt"):
        title = f"Logit lens of {entry.about.get('relation', entry.name)}"
    picture = [
        dcc.Store(id="now", data={"place": place}),
        html.Div(
            dcc.RadioItems(
                id="place",
                options=[{"label": visible(each), "value": each} for each in lines.places],
                value=place,
                inline=True,
                className="tabs",
            ),
            className="row",
        ),
        html.Div(id="lens-picture", children=fitted(lens_picture(lines, place), title)),
    ]
    columns = [
        parts.column("layer", "layer", 58, numeric=True),
        parts.column("position", "position", 120),
        parts.column("token", "token", 90),
        parts.column("rank", "rank", 64, numeric=True),
        parts.column("probability", "probability", 84, numeric=True),
    ]
    followed = value.provenance.get("followed")
    facts: list[tuple[str, Any]] = []
    if isinstance(followed, Mapping):
        facts = [(str(label), visible(str(word))) for label, word in followed.items()]
    return plain_page(
        title,
        "What the residual stream says after each layer; layer −1 is the embedding.",
        picture,
        columns,
        lens_rows(lines),
        known_facts(facts, value.provenance),
        value.says(),
    )


def lens_picture(lines: LensLines, place: str) -> go.Figure:
    """The lens at one position."""
    figure = lens_figure(lines, place)
    figure.update_layout(height=520)
    return figure


def rows_page(entry: Entry, value: Any, state: ViewState) -> html.Div:
    """Any result: its pictures one below the other, its rows as a table, and its summary."""
    kind = entry.kind
    picture: list[Any] = []
    pieces = list(value.parts())[:MOST_PARTS]
    for place, part in enumerate(pieces):
        if len(pieces) > 1:
            picture.append(html.H2(visible(part.heading() or "")))
        for turn, draw in enumerate(kind.screen.values()):
            picture.append(fitted(named(draw)(part), kind.shown, f"plain-picture-{place}-{turn}"))
    rows = [{key: _cell(row.get(key)) for key in kind.columns or row} for row in value.rows()]
    columns = [
        parts.column(name, name, 0, numeric=isinstance(rows[0][name], float | int))
        for name in (rows[0] if rows else {})
    ]
    summary = value.summary()
    facts: list[tuple[str, Any]] = [(name, visible(x)) for name, x in summary.facts.items()]
    about = known_facts(facts, getattr(value, "provenance", {}))
    return plain_page(summary.title, kind.says, picture, columns, rows, about, value.says())


def _cell(value: Any) -> Any:
    """A table's cell: lists as tokens side by side, numbers as they are, the rest as text."""
    if isinstance(value, list | tuple):
        return " ".join(parts.token(str(each)) for each in value)
    return value if isinstance(value, int | float) or value is None else visible(str(value))


def fitted(figure: go.Figure, label: str, id: str = "plain-picture") -> html.Div:
    """A picture as high as it wants to be, as wide as there is room."""
    height = figure.layout.height or 420
    return parts.graph(
        id,
        f"{label}. The table beside it holds the numbers.",
        figure,
        height=f"{height}px",
    )


def flat(value: Any, name: str = "", most: int = 400) -> list[tuple[str, str]]:
    """A record's plain values with their paths, in order; long lists are counted."""
    if isinstance(value, Mapping):
        found: list[tuple[str, str]] = []
        for key, inner in value.items():
            if len(found) >= most:
                break
            found += flat(inner, f"{name}.{key}" if name else str(key), most - len(found))
        return found
    if isinstance(value, list):
        if len(value) <= 8 and all(not isinstance(each, list | dict) for each in value):
            return [(name, visible(", ".join(map(str, value)))[:300])]
        return [(name, f"{len(value)} entries")]
    return [(name, visible(str(value))[:300])]
