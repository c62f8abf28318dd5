"""Terms of the glossary on a page of the app: notes that a click, a tap or a key opens.

A browser's own `details` element does it: what was found is one sentence, and the note on a term
opens below it. Terms in the heads of tables, where nothing can be opened, follow in a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html

from circuits.base.display import visible
from circuits.base.glossary import Marker, Term, Use


def lead(text: str, heads: Sequence[str] = ()) -> html.Div | None:
    """What was found, each term with its note, and the terms that only `heads` of tables use."""
    marker = Marker()
    pieces = marker.pieces(visible(text))
    found = [_note(each) if isinstance(each, Use) else each for each in pieces]
    rest = [each for head in heads for each in marker.pieces(visible(head))]
    more = [each.term for each in rest if isinstance(each, Use)]
    inside = [html.Div(found, className="lead")] * bool(found) + [_listed(more)] * bool(more)
    return html.Div(inside, className="terms") if inside else None


def heads_of(columns: Sequence[dict[str, Any]]) -> list[str]:
    """What the heads of a table's columns say."""
    return [str(column.get("headerName", "")) for column in columns]


def _note(use: Use) -> html.Details:
    meaning: list[Any] = [html.B(use.term.name), f": {use.term.plain}"]
    return html.Details(
        [html.Summary(visible(use.text)), html.Span(meaning, role="note")], className="term"
    )


def _listed(terms: Sequence[Term]) -> html.Details:
    rows = [part for term in terms for part in (html.Dt(term.name), html.Dd(term.plain))]
    named = ", ".join(term.name for term in terms)
    return html.Details(
        [html.Summary(f"Words in the tables: {named}"), html.Dl(rows, className="pairs")],
        className="words",
    )
