"""What answers to clicks without a model: selection, details, exports."""

from __future__ import annotations

from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, no_update
from dash.exceptions import PreventUpdate

from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.graph.circuit import Circuit
from viz.app import details, parts
from viz.app.browse_page import preview
from viz.app.circuit_page import summary_of
from viz.app.context import Context
from viz.app.controls import group_list
from viz.app.difference_page import comparison_of, difference_work
from viz.app.exports import DATA, PICTURES, exported, formats_of
from viz.app.live_callbacks import can_be_cut, reading_of
from viz.app.plain_pages import fitted, lens_picture
from viz.paper.difference import either_circuit
from viz.series import lens_lines


def register(app: Dash, context: Context) -> None:
    """Callbacks that neither make pages nor run a model."""
    _in_browser(app)
    _details(app, context)
    _exports(app, context)

    @app.callback(Output("preview", "children"), Input("results", "selectedRows"))
    def show_preview(rows: Any) -> Any:
        if not rows:
            raise PreventUpdate
        return parts.or_reason(lambda: preview(context, str(rows[0].get("id"))))

    @app.callback(
        Output("lens-picture", "children"),
        Input("place", "value"),
        State("subject", "data"),
        prevent_initial_call=True,
    )
    def show_place(place: Any, subject: Any) -> Any:
        value = context.library.value(subject["r"])
        if context.library.entry(subject["r"]).kind.view != "lens":
            raise PreventUpdate
        lines = lens_lines(value)
        if place not in lines.places:
            raise PreventUpdate
        return fitted(lens_picture(lines, place), "Logit lens")


def _in_browser(app: Dash) -> None:
    """What needs no server (`assets/kc.js`)."""
    app.clientside_callback(
        ClientsideFunction("kc", "draw"),
        Output("picture", "figure"),
        Output("count", "children"),
        Output("least", "children"),
        Input("scene", "data"),
        Input("n", "value"),
        Input("t", "value"),
        Input("selected", "data"),
        Input("search", "value"),
        Input("role", "value"),
        Input("kind", "value"),
        Input("layers", "value"),
        Input("classes", "value"),
        Input("groups", "data"),
        Input("only-groups", "value"),
        Input("off", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("kc", "select"),
        Output("selected", "data"),
        Input("picture", "clickData"),
        Input("edges-table", "selectedRows"),
        Input("nodes-table", "selectedRows"),
        State("selected", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "clear"),
        Output("selected", "data", allow_duplicate=True),
        Input("clear", "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "tables"),
        Output("edges-body", "className"),
        Output("nodes-body", "className"),
        Input("tables", "value"),
    )
    app.clientside_callback(
        ClientsideFunction("kc", "pin"),
        Output("groups", "data"),
        Input("pin", "n_clicks"),
        Input({"type": "unpin", "index": ALL}, "n_clicks"),
        State("group-name", "value"),
        State("selected", "data"),
        State("groups", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "toggle_off"),
        Output("off", "data"),
        Input("off-toggle", "n_clicks"),
        Input("off-clear", "n_clicks"),
        Input("picture", "clickData"),
        State("click-off", "value"),
        State("selected", "data"),
        State("off", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "submit"),
        Output("url", "search"),
        Input("ask", "n_clicks"),
        Input("ask-prompt", "n_submit"),
        Input("ask-subject", "n_submit"),
        Input("ask-answer", "n_submit"),
        Input("ask-against", "n_submit"),
        Input("ask-foil", "n_submit"),
        State("ask-model", "value"),
        State("ask-prompt", "value"),
        State("ask-subject", "value"),
        State("ask-answer", "value"),
        State("ask-against", "value"),
        State("ask-foil", "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "submit_edit"),
        Output("url", "search", allow_duplicate=True),
        Input("edit", "n_clicks"),
        Input("edit-target", "n_submit"),
        State("edit-target", "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "noise"),
        Output("url", "search", allow_duplicate=True),
        Input("noise", "value"),
        State("now", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "open_row"),
        Output("url", "search", allow_duplicate=True),
        Input("results", "cellDoubleClicked"),
        State("results", "selectedRows"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "find_results"),
        Output("results", "dashGridOptions"),
        Input("result-search", "value"),
        State("results", "dashGridOptions"),
    )
    app.clientside_callback(
        ClientsideFunction("kc", "keep_place"),
        Output("nothing", "data", allow_duplicate=True),
        Input("place", "value"),
        State("now", "data"),
        prevent_initial_call=True,
    )


def _details(app: Dash, context: Context) -> None:
    @app.callback(
        Output("details", "children"),
        Input("selected", "data"),
        State("subject", "data"),
    )
    def show_details(selected: Any, subject: Any) -> Any:
        return parts.or_reason(lambda: details_of(context, subject["r"], selected or {}))

    @app.callback(Output("group-list", "children"), Input("groups", "data"))
    def show_groups(groups: Any) -> Any:
        return group_list([(str(title), list(nodes)) for title, nodes in groups or []])


def details_of(context: Context, result: str, chosen: dict[str, str]) -> list[Any]:
    """What stands in the panel for a selection; the summary where there is none."""
    value = context.library.value(result)
    comparison = None if isinstance(value, Circuit) else comparison_of(value)
    circuit = value if comparison is None else either_circuit(comparison)
    node, edge = chosen.get("node", ""), chosen.get("edge", "")
    if node and node in circuit.nodes():
        source = circuit if comparison is None else comparison.before
        found = details.node_details(circuit, node, source.evidence, comparison)
        return [*found, reading_of(context, source)] if can_be_cut(node) else found
    if edge:
        found = details.edge_details(circuit, edge, comparison)
        return [*found, reading_of(context, circuit if comparison is None else comparison.before)]
    if comparison is None:
        return summary_of(circuit)
    about: list[Any] = difference_work(context.library.entry(result), value).about
    return about


def _exports(app: Dash, context: Context) -> None:
    formats = (*PICTURES, *DATA)

    @app.callback(
        Output("download", "data"),
        Output("message", "children", allow_duplicate=True),
        *[Input(f"export-{each}", "n_clicks") for each in formats],
        State("subject", "data"),
        State("shown-edges", "data"),
        State("title", "data"),
        prevent_initial_call=True,
    )
    def save(*values: Any) -> tuple[Any, Any]:
        subject, shown, title = values[-3:]
        if not ctx.triggered or not ctx.triggered[0]["value"]:
            return no_update, no_update
        format = str(ctx.triggered_id).removeprefix("export-")
        try:
            entry = context.library.entry(subject["r"])
            if format not in formats_of(entry.kind):
                raise OptionError(f"a {entry.kind.shown} is not exported as {format}")
            data = exported(context.library.value(entry.id), format, str(title or ""), shown)
        except KnowledgeCircuitsError as error:
            return no_update, parts.note(str(error), "error")
        stem = "".join(c if c.isalnum() else "-" for c in entry.name.partition(".kc.")[0])[-60:]
        suffix = "node-link.json" if format == "json" and entry.kind.view == "circuit" else format
        return dcc.send_bytes(data, f"{stem.strip('-') or 'view'}.{suffix}"), ""
