"""The list of results, with a look at the one that is chosen."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from circuits.base.display import visible
from circuits.base.errors import KnowledgeCircuitsError
from circuits.files.kinds import DAMAGED, REPORT, SWEEP
from circuits.graph.circuit import Circuit
from viz.app import parts
from viz.app.circuit_page import subtitle, summary_of
from viz.app.context import Context
from viz.app.groups import Group, group_of, groups, href, made, tab_name
from viz.app.lead import lead_of, told_beside
from viz.app.library import MAX_FILES, Entry
from viz.app.state import ViewState
from viz.app.terms import lead
from viz.screen.circuit import circuit_figure

COLUMNS = [
    parts.column("name", "result", 130, minWidth=108),
    parts.column("relation", "what was asked", 210, minWidth=122),
    parts.column("kind", "holds", 150, minWidth=80),
    parts.column("model", "model", 112, minWidth=104),
    parts.column("method", "method", 84),
    parts.column("size", "edges", 70, numeric=True),
    parts.column("faithfulness", "faithfulness", 112, numeric=True, minWidth=106),
    parts.column("created", "made", 142, minWidth=138),
]
PREVIEW_EDGES = 60


def browse_page(context: Context, state: ViewState) -> html.Div:
    """All results in a table that is searched as a whole; a choice shows a preview."""
    entries = context.library.entries()
    rows = [each.row() for each in groups(entries)]
    # What is open in the list is what was made last, as a reader comes to see that.
    rows.sort(key=lambda row: row["created"], reverse=True)
    found = f"{len(rows):,} result{'' if len(rows) == 1 else 's'}"
    if len(entries) > len(rows):
        found += f" of {len(entries):,} files"
    if context.library.n_found > MAX_FILES:
        found = f"{MAX_FILES:,} of {context.library.n_found:,} results"
    root = context.library.root
    return html.Div(
        [
            html.Section(
                [
                    parts.picture_head("Results", visible(f"{found} in {root}" if root else found)),
                    html.Div(
                        parts.search_field(
                            "result-search",
                            "Search",
                            state.q,
                            "Search model, relation, method, …   Enter opens",
                        ),
                        className="toolbar",
                    ),
                    html.Div(
                        parts.table(
                            "results",
                            COLUMNS,
                            rows,
                            getRowId="params.data.id",
                            selectedRows=rows[:1],
                            options={"rowHeight": 32, "headerHeight": 34},
                        ),
                        className="picture-pane list",
                    )
                    if rows
                    else nothing_here(),
                ],
                className="centre",
            ),
            html.Aside(
                html.Div(id="preview", className="right-top"), className="right wide preview"
            ),
        ],
        className="work plain",
    )


def nothing_here() -> html.Div:
    """What to do where the folder is empty."""
    return html.Div(
        [
            html.P("There are no results here yet. Find a circuit on the command line,"),
            html.Pre("make demo\nkc serve out/demo"),
            html.P(["or ", dcc.Link("try one prompt live", href="?view=try"), "."]),
        ],
        className="cards",
    )


def preview(context: Context, result: str) -> list[Any]:
    """What one result found, in a sentence, with all that it holds and the way in."""
    entry = context.library.entry(result)
    group = group_of(context.library.entries(), entry)
    link = dcc.Link("Open", href=href(entry), className="button main")
    head: list[Any] = [html.Div([html.H2(visible(group.name)), link], className="heading")]
    if entry.kind is DAMAGED:
        return [head[0].children[0], parts.note(f"This file {entry.error}.", "error")]
    if entry.kind is SWEEP:
        sweep = context.library.sweep(result).look()
        models = ", ".join(sweep.models)
        return [*head, html.P(visible(sweep.says())), parts.pairs([("models", models)])]
    if entry.kind is REPORT:
        summary, _ = context.library.report(result)
        return [
            *head,
            lead(str(summary.get("lead", ""))),
            parts.pairs(facts_of(entry)),
            *_holds(group),
        ]
    try:
        with parts.foreseen(entry.name):
            return [*head, *_found(context, entry, group)]
    except KnowledgeCircuitsError as error:
        return [head[0].children[0], parts.note(str(error), "error")]


def _found(context: Context, entry: Entry, group: Group) -> list[Any]:
    """What a result of its own kind found; a circuit with its picture."""
    value = context.library.value(entry.id)
    sentence = lead_of(value, told_beside(value, context.library.record(entry.id)))
    found: list[Any] = [lead(sentence)] if sentence else []
    found += _holds(group)
    if isinstance(value, Circuit):
        figure = circuit_figure(value, PREVIEW_EDGES, title="")
        margin = {"l": 2, "r": 2, "t": 4, "b": 4}
        figure.update_layout(height=300, margin=margin, dragmode=False, showlegend=False)
        figure.update_layout(annotations=[])
        for trace in figure.data:
            if trace.mode == "text":
                trace.textfont.size = 8
        found += [
            html.P(subtitle(value), className="hint"),
            html.Div(
                dcc.Graph(figure=figure, config={"staticPlot": True}, style={"height": "300px"}),
                className="thumb",
            ),
            *summary_of(value),
        ]
        return found
    return [*found, parts.pairs(facts_of(entry))]


def _holds(group: Group) -> list[Any]:
    """Links to all files of a result, where there are several."""
    if len(group.entries) < 2:
        return []
    links = [html.Li(dcc.Link(tab_name(group, each), href=href(each))) for each in group.entries]
    return [html.H3("Holds"), html.Ul(links, className="holds")]


def facts_of(entry: Entry) -> list[tuple[str, Any]]:
    """What the list knows of a result."""
    names = ("model", "relation", "method", "size", "faithfulness")
    told = [
        (name, parts.number(entry.about[name]))
        for name in names
        if entry.about.get(name) is not None
    ]
    return [*told, ("made", made(entry.about))]
