"""What answers to clicks without a model: selection, details, exports."""

from __future__ import annotations

from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, no_update
from dash.exceptions import PreventUpdate

from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.graph.circuit import Circuit
from viz.app import details, parts
from viz.app.box_details import box_details, bundle_details
from viz.app.browse_page import preview
from viz.app.circuit_page import circuit_work, summary_of
from viz.app.context import Context
from viz.app.controls import group_list, pieces_said
from viz.app.difference_page import comparison_of, difference_work, side_read
from viz.app.exports import DATA, PICTURES, exported, formats_of
from viz.app.live_callbacks import can_be_cut, reading_of
from viz.app.plain_pages import fitted, lens_picture
from viz.app.state import parse_state
from viz.app.workspace import Collapsed, Work, node_rows, scene_data
from viz.paper.difference import either_circuit
from viz.screen.boxes import PREFIX
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
        State("boxes", "data"),
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
        ClientsideFunction("kc", "collapse"),
        Output("boxes", "data"),
        Input({"type": "collapse", "index": ALL}, "n_clicks"),
        Input("groups", "data"),
        State("boxes", "data"),
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
        State("boxes", "data"),
        State("url", "search"),
    )
    def show_details(selected: Any, subject: Any, boxes: Any, search: Any) -> Any:
        state, _ = parse_state(search)
        return parts.or_reason(
            lambda: details_of(context, subject["r"], selected or {}, boxes or (), state.noise)
        )

    @app.callback(Output("group-list", "children"), Input("groups", "data"), Input("boxes", "data"))
    def show_groups(groups: Any, boxes: Any) -> Any:
        told = [(str(title), list(nodes)) for title, nodes in groups or []]
        return group_list(told, {str(title) for title, _ in boxes or []})

    @app.callback(
        Output("scene", "data"),
        Output("nodes-table", "rowData"),
        Output("selected", "data", allow_duplicate=True),
        Output("group-note", "children"),
        Input("boxes", "data"),
        State("subject", "data"),
        State("selected", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show_boxes(boxes: Any, subject: Any, selected: Any, search: Any) -> tuple[Any, ...]:
        state, _ = parse_state(search)
        work = work_of(context, subject["r"], boxes or (), state.noise)
        rows, kept = node_rows(work.circuit, work.scene), still(work, selected or {})
        return scene_data(work), rows, kept, pieces_said(work.pieces)


def work_of(context: Context, result: str, boxes: Collapsed, noise: str) -> Work:
    """What the workspace shows of a circuit or a difference, with these groups as boxes."""
    value, entry = context.library.value(result), context.library.entry(result)
    if isinstance(value, Circuit):
        return circuit_work(context, entry, value, boxes)
    return difference_work(entry, value, noise=noise, groups=boxes)


def still(work: Work, selected: dict[str, str]) -> dict[str, str]:
    """The selection after groups were collapsed or expanded: a box for the node within it."""
    node, edge = selected.get("node", ""), selected.get("edge", "")
    if edge in work.scene.names or node in work.scene.nodes:
        return selected
    for place, name in work.scene.boxes.items():
        if node in work.scene.layout.boxes[place].members:
            return {"node": name}
    return {}


def details_of(
    context: Context,
    result: str,
    chosen: dict[str, str],
    boxes: Collapsed = (),
    noise: str = "",
) -> list[Any]:
    """What stands in the panel for a selection; the summary where there is none."""
    with parts.foreseen(context.library.entry(result).name):
        return _details_of(context, result, chosen, boxes, noise)


def _details_of(
    context: Context, result: str, chosen: dict[str, str], boxes: Collapsed, noise: str
) -> list[Any]:
    value = context.library.value(result)
    comparison = None if isinstance(value, Circuit) else comparison_of(value)
    circuit = value if comparison is None else either_circuit(comparison)
    source = circuit if comparison is None else comparison.before
    side = "" if comparison is None else side_read(value)
    node, edge = chosen.get("node", ""), chosen.get("edge", "")
    if boxes and (node.startswith(PREFIX) or PREFIX in edge):
        scene = work_of(context, result, boxes, noise).scene
        if node in scene.nodes:
            return box_details(circuit, scene, node, comparison)
        if edge in scene.names:
            return bundle_details(circuit, scene, edge, comparison)
    if node and node in circuit.nodes():
        found = details.node_details(circuit, node, source.evidence, comparison)
        return [*found, reading_of(context, source, side)] if can_be_cut(node) else found
    if edge:
        found = details.edge_details(circuit, edge, comparison)
        return [*found, reading_of(context, source, side)]
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
        State("shown-boxes", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def save(*values: Any) -> tuple[Any, Any]:
        subject, shown, title, boxes, search = values[-5:]
        if not ctx.triggered or not ctx.triggered[0]["value"]:
            return no_update, no_update
        format = str(ctx.triggered_id).removeprefix("export-")
        try:
            entry = context.library.entry(subject["r"])
            if format not in formats_of(entry.kind):
                raise OptionError(f"a {entry.kind.shown} is not exported as {format}")
            value = context.library.value(entry.id)
            noise = parse_state(search)[0].noise
            data = exported(value, format, str(title or ""), shown, boxes or (), noise)
        except KnowledgeCircuitsError as error:
            return no_update, parts.note(str(error), "error")
        stem = "".join(c if c.isalnum() else "-" for c in entry.name.partition(".kc.")[0])[-60:]
        suffix = "node-link.json" if format == "json" and entry.kind.view == "circuit" else format
        return dcc.send_bytes(data, f"{stem.strip('-') or 'view'}.{suffix}"), ""
