"""An edit or unlearning: what the model said and says, how each measure fared, what it rewired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from dash import dcc, html

from circuits.base.display import visible
from circuits.base.stamps import SAYS
from circuits.edits.provenance import JUDGED, changed, requested, requests_of, sides
from viz.app import parts
from viz.app.context import Context
from viz.app.details import known_facts
from viz.app.groups import group_of, href
from viz.app.lead import answers_of, judged, lead_of
from viz.app.library import Entry, Record
from viz.app.plain_pages import fitted, flat, plain_page
from viz.screen.sides import sides_figure

if TYPE_CHECKING:
    from locate.changes.rewired import Rewiring

SCORINGS = ("tokens", "likelihood", "generation")
SETS = {
    "forget": "to forget",
    "retain": "to stay, trained on",
    "held_out": "to stay, not trained on",
}
SIDES = ("before", "after")
MOST_REQUESTS = 20
MEANINGS = {
    "change": "norm of the change, of the weight's",
    "growth": "norm of the weight, of before",
    "drift": "perplexity on prose, of before",
    "score": "CounterFact's score",
    "requests": "requests",
}


def record_page(
    context: Context, entry: Entry, value: Record, beside: Mapping[str, Any]
) -> html.Div:
    """An edit in words and pictures; a file of which nothing is known in a table alone."""
    origin = value.metadata.get("provenance")
    told = judged(value) or beside
    success, details = told.get("success"), told.get("details")
    cards: list[Any] = []
    if requests_of(origin):
        cards += _asked(requests_of(origin), beside)
    cards += rewired(context, entry)
    if isinstance(success, Mapping):
        cards += _success(success)
    if isinstance(details, Mapping) and "forget" in details:
        cards = [*unlearning(details), *cards]
    if not cards:
        text = "The app knows no picture of this file; the table holds what it says."
        cards = [html.P(text, className="hint")]
    rows = [
        {"name": name.removeprefix("provenance."), "value": text}
        for name, text in flat({**value.metadata, **beside})
        if text != "None" and name != SAYS and not (cards and f".{JUDGED}." in name)
    ]
    columns = [parts.column("name", "name", 150), parts.column("value", "value", 240)]
    method = origin.get("method") if isinstance(origin, Mapping) else None
    model = origin.get("model") if isinstance(origin, Mapping) else None
    what = "an edit of weights" if value.kind == "weight-delta" else value.kind
    by = f" by {method}" if method else ""
    return plain_page(
        changed(origin) or (f"{method} in {model}" if method and model else entry.name),
        f"{what}{by}{f', {model}' if model else ''}",
        html.Div(cards, className="cards wide"),
        columns,
        rows,
        known_facts([], origin if isinstance(origin, Mapping) else {}),
        lead_of(value, beside),
    )


def _asked(requests: Sequence[Mapping[str, Any]], beside: Mapping[str, Any]) -> list[Any]:
    """Each request, with what the model said before and says now where that is stored."""
    replies = {prompt: both for prompt, *both in answers_of(beside)}
    scores = beside.get("scores")
    chances = {
        requested(each): each.get("probability")
        for each in (scores if isinstance(scores, list) else ())
        if isinstance(each, Mapping)
    }
    rows = []
    for each in requests[:MOST_REQUESTS]:
        asked = requested(each)
        before, after = replies.get(asked, ("", ""))
        rows.append((asked, sides(each), before, after, _pair(chances.get(asked))))
    more = len(requests) - len(rows)
    return [
        html.H2("Asked, before and after"),
        parts.small_table(("prompt", "wanted", "said before", "says now", "p of the new"), rows),
        html.P(f"and {more:,} more, in the table", className="hint") if more > 0 else None,
    ]


def _pair(values: Any) -> str:
    if not (isinstance(values, list) and len(values) == 2):
        return ""
    return " → ".join(parts.number(value) for value in values)


def measures_of(
    success: Any,
) -> tuple[list[tuple[str, ...]], dict[str, tuple[float | None, float | None]]]:
    """Rows of the table of success, each measure before → after, and its bars by tokens."""
    told = success if isinstance(success, Mapping) else {}
    sides = [side for name in SIDES if isinstance(side := told.get(name), Mapping)]
    rows: list[tuple[str, ...]] = []
    bars: dict[str, tuple[float | None, float | None]] = {}
    if len(sides) < len(SIDES):
        return rows, bars
    for measure in sides[1]:
        was, now = ({each: _value(side.get(measure), each) for each in SCORINGS} for side in sides)
        cells = [f"{_cell(was[each])} → {_cell(now[each])}" for each in SCORINGS]
        rows.append((str(measure), *(text if "→ –" not in text else "" for text in cells)))
        bars[str(measure)] = (was["tokens"], now["tokens"])
    return rows, bars


def _success(success: Mapping[str, Any]) -> list[Any]:
    """The table of measures, its picture, and what the edit cost."""
    rows, bars = measures_of(success)
    cards: list[Any] = []
    if rows:
        cards += [
            html.H2("How each measure fared"),
            fitted(sides_figure(bars, "share of answers, by their tokens"), "Success"),
            parts.small_table(("", *SCORINGS), rows),
            html.P(
                "Before → after. Paraphrases ask the same in other words; neighbours, locality and "
                "other relations should stay as they were.",
                className="hint",
            ),
        ]
    shown = [
        (MEANINGS.get(str(key), str(key)), parts.interval(part))
        for key, part in success.items()
        if isinstance(part, int | float | Mapping) and key not in ("before", "after", "knowedit")
    ]
    return [*cards, html.H2("What it cost"), parts.pairs(shown)]


def _value(rates: Any, scoring: str) -> float | None:
    found = rates.get(scoring) if isinstance(rates, Mapping) else None
    value = found.get("value") if isinstance(found, Mapping) else found
    return float(value) if isinstance(value, int | float) else None


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def unlearning(details: Mapping[str, Any]) -> list[Any]:
    """Token accuracy and loss of each set before and after, as pictures."""
    pictures: list[Any] = [html.H2("What was forgotten, and what stayed")]
    for turn, (what, title, most) in enumerate(
        (("accuracy", "token accuracy", 1.0), ("loss", "loss (nats a token)", None))
    ):
        measures = {
            label: both
            for name, label in SETS.items()
            if (both := _both(details.get(name), what)) != (None, None)
        }
        if measures:
            figure: go.Figure = sides_figure(measures, title, most)
            pictures.append(fitted(figure, title, f"unlearned-{turn}"))
    if "held_out" not in details:
        text = "What is to stay was trained on; only texts held out would not be."
        pictures.append(html.P(text, className="hint"))
    return pictures


def _both(record: Any, what: str) -> tuple[float | None, float | None]:
    values = [record.get(side) if isinstance(record, Mapping) else None for side in SIDES]
    before, after = (
        each.get(what)
        if isinstance(each, Mapping) and isinstance(each.get(what), float | int)
        else None
        for each in values
    )
    return before, after


def rewired(context: Context, entry: Entry) -> list[Any]:
    """What comparisons of this edit found: heads that switched sides, and the undo test."""
    entries = context.library.entries()
    found: list[Any] = []
    for each in group_of(entries, entry).entries:
        if each.kind.name == "rewiring":
            value = context.library.value(each.id)
            link = dcc.Link("its circuit before and after", href=href(each))
            found += [
                html.H2(["What it did to the circuit: ", link]),
                html.P(visible(value.says()), className="lead"),
                heads_table(value),
            ]
    return found


def heads_table(found: Rewiring) -> html.Div | None:
    """Heads by how far their words moved from the old to the new object."""
    heads = sorted(found.heads, key=lambda head: (not head.switched, -abs(head.swing)))
    if not heads:
        return None
    rows = [
        (
            head.name,
            head.role,
            "switched" if head.switched else "",
            f"{head.swing:+.2f}",
            *(" ".join(map(parts.token, words)) for words in head.written),
        )
        for head in heads
    ]
    header = ("head", "role", "side", "logits moved", "wrote before", "writes now")
    return parts.small_table(header, rows)
