"""From a URL to a page; whatever a file or a link holds, the answer is a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from circuits.base.display import visible
from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.files.kinds import DAMAGED, REPORT, SWEEP
from viz.app import edit_page, parts, plain_pages, try_page
from viz.app.browse_page import browse_page
from viz.app.circuit_page import circuit_work
from viz.app.context import Context
from viz.app.difference_page import difference_work, extra_of
from viz.app.exports import DATA, PICTURES, formats_of
from viz.app.groups import group_of, href, tab_name
from viz.app.lead import told_beside
from viz.app.library import Entry
from viz.app.report_page import report_page
from viz.app.state import ViewState, parse_state
from viz.app.sweep_page import sweep_page
from viz.app.workspace import workspace


def register(app: Dash, context: Context) -> None:
    """Callbacks that make pages."""
    runs: dict[str, str] = {}

    @app.callback(
        Output("page", "children"),
        Output("exports", "children"),
        Output("message", "children"),
        Output("title", "data"),
        Output("subject", "data"),
        Output("siblings", "children"),
        Output("nav-browse", "className"),
        Output("nav-try", "className"),
        Input("url", "search"),
        Input("refresh", "data"),
    )
    def show_page(search: str | None, _: Any) -> tuple[Any, ...]:
        state, notices = parse_state(search)
        try:
            page, entry, title = page_of(context, state, _go(search), runs)
        except KnowledgeCircuitsError as error:
            page, entry, title = error_page(str(error)), None, "Not shown"
        if entry is not None and (line := context.library.mixed(entry)):
            notices = [*notices, line]
        message = [parts.note(text) for text in notices]
        on = "on" if state.view == "browse" else "", "on" if state.view == "try" else ""
        subject = {"r": "" if entry is None else entry.id}
        return page, export_buttons(entry), message, title, subject, siblings(context, entry), *on

    app.clientside_callback(
        ClientsideFunction("kc", "title"), Output("nothing", "data"), Input("title", "data")
    )

    @app.callback(
        Output("progress", "children"),
        Output("refresh", "data"),
        Output("tick", "disabled"),
        Input("tick", "n_intervals"),
        State("job", "data"),
        State("refresh", "data"),
        prevent_initial_call=True,
    )
    def follow(ticks: Any, key: str, refresh: Any) -> tuple[Any, Any, bool]:
        if not ticks:  # called as the page comes: Dash would take what follows for a circle
            raise PreventUpdate
        status = context.jobs.status(key)
        if status is None or status.state != "running":
            return no_update, (refresh or 0) + 1, True
        return try_page.progress_lines(status), no_update, False

    @app.callback(
        Output("cancel", "children"),
        Input("cancel", "n_clicks"),
        State("job", "data"),
        prevent_initial_call=True,
    )
    def cancel(clicks: Any, key: str) -> str:
        if not clicks:  # the button has just come to the page
            return "Cancel"
        context.jobs.cancel(key)
        return "Cancelling …"


def page_of(
    context: Context, state: ViewState, go: str, runs: dict[str, str]
) -> tuple[html.Div, Entry | None, str]:
    """The page of a state, the result that it shows and the window's title."""
    if state.view == "try":
        return live_page(context, state, go, runs)
    if state.view == "browse":
        return browse_page(context, state), None, "Results"
    entries = context.library.entries()
    if not state.r:
        own = context.opened
        entry = next(
            (each for each in entries if (each.id == own if own else each.kind.view == "circuit")),
            None,
        )
        if entry is None and len(entries) == 1 and entries[0].kind is SWEEP:
            entry = entries[0]
        if entry is None or state.view not in ("", entry.kind.view):
            return browse_page(context, state), None, "Results"
    else:
        entry = context.library.entry(state.r)
    if entry.kind is SWEEP:
        return sweep_page(context.library, entry, state), entry, entry.name
    if entry.kind is REPORT:
        return report_page(context, entry), entry, entry.name
    if entry.kind is DAMAGED:
        return error_page(f"{entry.name} {entry.error}."), None, "Damaged file"
    return _result_page(context, entry, state), entry, entry.name


def _result_page(context: Context, entry: Entry, state: ViewState) -> html.Div:
    with parts.foreseen(entry.name):
        value = context.library.value(entry.id)
        return _PAGES[entry.kind.view](context, entry, value, state)


def _circuit(context: Context, entry: Entry, value: Any, state: ViewState) -> html.Div:
    return workspace(circuit_work(context, entry, value, state.boxes), state)


def _difference(context: Context, entry: Entry, value: Any, state: ViewState) -> html.Div:
    work = difference_work(entry, value, noise=state.noise, groups=state.boxes)
    return workspace(work, state, extra_of(value, state.noise))


def _record(context: Context, entry: Entry, value: Any, state: ViewState) -> html.Div:
    beside = told_beside(value, context.library.record(entry.id))
    return edit_page.record_page(context, entry, value, beside)


_PAGES: dict[str, Callable[[Context, Entry, Any, ViewState], html.Div]] = {
    "circuit": _circuit,
    "difference": _difference,
    "trace": lambda context, *rest: plain_pages.trace_page(*rest),
    "lens": lambda context, *rest: plain_pages.lens_page(*rest),
    "rows": lambda context, *rest: plain_pages.rows_page(*rest),
    "record": _record,
}


def live_page(
    context: Context, state: ViewState, go: str, runs: dict[str, str]
) -> tuple[html.Div, Entry | None, str]:
    """A live question: start it, or show how far it is, or what it found."""
    if not (state.model and state.prompt and state.subject and state.answer):
        missing = "give a model, a prompt, a subject and an answer" if state.prompt else ""
        return try_page.try_page(context, state, None, None, missing), None, "Try it"
    key = try_page.job_key(state)
    status, error = context.jobs.status(key), ""
    asked_again = bool(go) and runs.get(key) != go
    if status is None or (asked_again and status.state in ("failed", "cancelled")):
        runs[key] = go
        try:
            try_page.start(context, state)
        except OptionError as busy:
            error = str(busy)
        status = context.jobs.status(key)
    elif asked_again:
        runs[key] = go
    found, shown = context.jobs.value(key), state
    refused = status is not None and status.state in ("failed", "cancelled")
    if found is None and state.target and (error or refused):
        # An edit that was refused leaves the circuit that it was asked of on the page.
        before = state.before_edit()
        found = context.jobs.value(try_page.job_key(before))
        if found is not None:
            error = error or f"No edit to {state.target!r}: {status.error if status else ''}"
            shown = before
    page = try_page.try_page(context, shown, found, status, error)
    return page, getattr(found, "entry", None), state.prompt


def error_page(message: str) -> html.Div:
    """Why something cannot be shown, and a way on."""
    return html.Div(
        html.Section(
            html.Div(
                [
                    html.H1("This cannot be shown"),
                    parts.note(message, "error"),
                    dcc.Link("All results", href="?view=browse", className="button"),
                ],
                className="cards",
            ),
            className="centre",
        ),
        className="work alone",
    )


def siblings(context: Context, entry: Entry | None) -> list[Any]:
    """Links to the other files of what is shown, and to what was found about its edit."""
    if entry is None or entry.live:
        return []
    group = group_of(context.library.entries(), entry)
    if len(group.entries) < 2:
        return []
    links = [
        dcc.Link(
            visible(tab_name(group, each)),
            href=href(each),
            className="on" if each.id == entry.id else "",
        )
        for each in group.entries
    ]
    return [html.B(visible(group.name)), *links]


def export_buttons(entry: Entry | None) -> list[Any]:
    """One button a format; those that a result has no use for are not there to be seen."""
    possible = () if entry is None else formats_of(entry.kind)
    names = {"graphml": "GraphML"}
    buttons: list[Any] = []
    for group, formats in (("picture", PICTURES), ("data", DATA)):
        inner = [
            html.Button(
                names.get(each, each.upper()),
                id=f"export-{each}",
                className="export",
                title=f"Save the {group} as {names.get(each, each.upper())}",
                hidden=each not in possible,
            )
            for each in formats
        ]
        buttons.append(
            html.Span(inner, className="export-group", hidden=not set(formats) & set(possible))
        )
    return buttons


def _go(search: str | None) -> str:
    """A form was sent: ask again, also where the same question failed before."""
    try:
        return parse_qs((search or "").removeprefix("?"), max_num_fields=60).get("go", [""])[0]
    except ValueError:
        return ""
