"""The report of an analysis: what it claims, and its own page in a frame that runs nothing."""

from __future__ import annotations

from collections.abc import Mapping

from dash import Dash, html
from flask import Response, abort

from circuits.base.display import visible
from circuits.base.errors import KnowledgeCircuitsError
from viz.app import parts
from viz.app.context import Context
from viz.app.library import Entry

POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "frame-ancestors 'self'"
)
"""Of a report's page: it shows itself, loads nothing and runs nothing."""
PLACE = "/report/"
MOST_CLAIMS = 12


def register(app: Dash, context: Context) -> None:
    """Serve the pages of reports by the ids of the list."""

    @app.server.route(f"{PLACE}<result>")
    def page(result: str) -> Response:
        try:
            _, text = context.library.report(result)
        except KnowledgeCircuitsError:
            abort(404)
        answer = Response(text, mimetype="text/html")
        answer.headers["Content-Security-Policy"] = POLICY
        return answer


def report_page(context: Context, entry: Entry) -> html.Div:
    """What the report found, in its own sentences, and the whole of it below."""
    summary, _ = context.library.report(entry.id)
    question, model = (str(summary.get(name, "")) for name in ("question", "model"))
    claims = summary.get("claims")
    said = [
        str(each["sentence"])
        for each in (claims if isinstance(claims, list) else ())
        if isinstance(each, Mapping) and isinstance(each.get("sentence"), str)
    ]
    lines = [html.Li(visible(text)) for text in said[:MOST_CLAIMS]]
    subtitle = "  ·  ".join(filter(None, [str(summary.get("analysis", "")), model]))
    return html.Div(
        [
            html.Section(
                [
                    parts.picture_head(
                        visible(question or entry.name),
                        visible(subtitle),
                        html.Details(
                            [
                                html.Summary(f"{len(said):,} claims, each with its control"),
                                html.Ul(lines),
                            ],
                            className="claims",
                        )
                        if lines
                        else None,
                        lead=str(summary.get("lead", "")),
                    ),
                    html.Iframe(
                        src=f"{PLACE}{entry.id}",
                        title=visible(f"Report: {question or entry.name}"),
                        sandbox="",
                        className="report",
                    ),
                ],
                className="centre",
            )
        ],
        className="work alone",
    )
