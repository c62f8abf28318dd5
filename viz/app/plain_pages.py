"""Pages of one picture and its table: traces, lenses, attributions, and files without a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

from viz.app import parts
from viz.app.details import known_facts
from viz.app.library import Entry
from viz.app.loaders import Record, StoredAttribution, StoredLens
from viz.app.state import ViewState
from viz.screen.curves import attribution_figure, lens_figure
from viz.screen.heat_maps import trace_figure

MOST_ROWS = 5000


def plain_page(
    entry: Entry,
    title: str,
    subtitle: str,
    picture: Any,
    columns: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    about: Sequence[Any],
) -> html.Div:
    """Picture at the left, summary and table at the right."""
    return html.Div(
        [
            html.Section(
                [
                    html.Div(
                        [
                            html.H1(parts.visible(title)),
                            html.P(parts.visible(subtitle), className="subtitle"),
                        ],
                        className="picture-head",
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
        facts: list[tuple[str, Any]] = [("facts", str(len(value.p_clean)))]
    else:
        title, clean, corrupted = value.prompt, value.p_clean, value.p_corrupted
        facts = [("answer", value.answer)]
    facts += [
        ("p of the answer, clean", f"{clean:.4f}"),
        ("p of the answer, subject corrupted", f"{corrupted:.4f}"),
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
    subtitle = (
        "Blue: restoring this state brings the answer back. Orange: it costs. "
        "The subject's rows are bold."
    )
    return plain_page(
        entry, title, subtitle, fitted(figure, title), columns, rows, known_facts(facts, origin)
    )


def lens_page(entry: Entry, value: StoredLens, state: ViewState) -> html.Div:
    """Logit lens: rank and probability by layer, at a position that can be chosen."""
    places = value.lines.places
    place = state.place if state.place in places else places[0]
    prompt = value.metadata.get("prompt")
    title = str(prompt) if prompt else f"Logit lens of {entry.about.get('relation', entry.name)}"
    picture = [
        dcc.Store(id="now", data={"place": place}),
        html.Div(
            dcc.RadioItems(
                id="place",
                options=[{"label": each, "value": each} for each in places],
                value=place,
                inline=True,
                className="tabs",
            ),
            className="row",
        ),
        html.Div(id="lens-picture", children=fitted(lens_picture(value, place), title)),
    ]
    columns = [
        parts.column("layer", "layer", 58, numeric=True),
        parts.column("position", "position", 120),
        parts.column("token", "token", 90),
        parts.column("rank", "rank", 64, numeric=True),
        parts.column("probability", "probability", 84, numeric=True),
    ]
    followed = value.metadata.get("followed")
    facts: list[tuple[str, Any]] = []
    if isinstance(followed, Mapping):
        facts = [(str(label), parts.visible(str(word))) for label, word in followed.items()]
    origin = value.metadata.get("provenance")
    about = known_facts(facts, origin if isinstance(origin, Mapping) else {})
    return plain_page(
        entry,
        title,
        "What the residual stream says after each layer; layer −1 is the embedding.",
        picture,
        columns,
        value.rows,
        about,
    )


def lens_picture(value: StoredLens, place: str) -> go.Figure:
    """The lens at one position."""
    figure = lens_figure(value.lines, place)
    figure.update_layout(height=520)
    return figure


def attribution_page(entry: Entry, value: StoredAttribution, state: ViewState) -> html.Div:
    """Direct logit attribution: what each head and MLP adds to the answer."""
    figure = attribution_figure(value.names, value.values)
    rows = [
        {"source": name, "contribution": number}
        for name, number in zip(value.names, value.values, strict=True)
    ]
    rows.sort(key=lambda row: -abs(float(str(row["contribution"]))))
    columns = [
        parts.column("source", "source", 90),
        parts.column("contribution", "logits", 90, numeric=True),
    ]
    difference = value.metadata.get("logit_difference")
    facts = [("mean logit difference", parts.number(difference))]
    origin = value.metadata.get("provenance")
    title = f"Direct logit attribution of {value.metadata.get('relation', entry.name)}"
    return plain_page(
        entry,
        title,
        "What each source adds to the answer's logit over the foil's, directly.",
        fitted(figure, title),
        columns,
        rows,
        known_facts(facts, origin if isinstance(origin, Mapping) else {}),
    )


def record_page(entry: Entry, value: Record, summary: Mapping[str, Any]) -> html.Div:
    """A file without a picture: what it and the summary beside it say."""
    found = flat({**dict(value.metadata), **summary})
    rows = [{"name": name, "value": text} for name, text in found]
    columns = [parts.column("name", "name", 150), parts.column("value", "value", 240)]
    success = summary.get("success")
    cards: list[Any] = []
    if isinstance(success, Mapping):
        shown = [
            (str(key), parts.interval(part))
            for key, part in success.items()
            if isinstance(part, int | float | Mapping)
        ]
        cards = [html.H2("How well the edit worked"), parts.pairs(shown)]
    requests = summary.get("requests")
    if isinstance(requests, list):
        lines = [
            html.Li(
                parts.visible(
                    f"{each.get('prompt', '').replace('{}', str(each.get('subject', '')))} → "
                    f"{each.get('target', '')}"
                )
            )
            for each in requests[:20]
            if isinstance(each, Mapping) and isinstance(each.get("prompt"), str)
        ]
        cards = [html.H2("Asked for"), html.Ul(lines), *cards]
    picture = html.Div(
        cards
        or [
            html.P(
                "This result has no picture; the table holds what the file says.", className="hint"
            )
        ],
        className="cards",
    )
    return plain_page(
        entry,
        entry.name,
        value.kind.replace("weight-delta", "an edit of weights"),
        picture,
        columns,
        rows,
        [],
    )


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
            return [(name, parts.visible(", ".join(map(str, value)))[:300])]
        return [(name, f"{len(value)} entries")]
    return [(name, parts.visible(str(value))[:300])]
