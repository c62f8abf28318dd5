"""What answers to the controls of a sweep's page, and keeps its link."""

from __future__ import annotations

from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State

from circuits.base.errors import KnowledgeCircuitsError
from viz.app import parts
from viz.app.context import Context
from viz.app.state import ViewState
from viz.app.sweep_page import FILTER, views

FILTERS = {"type": FILTER, "name": ALL}


def register(app: Dash, context: Context) -> None:
    """The matrix and the list of units; the cell and the link are the browser's (`kc.js`)."""

    @app.callback(
        Output("sweep-matrix", "children"),
        Output("sweep-units", "children"),
        Input("sweep-number", "value"),
        Input("sweep-rows", "value"),
        Input("sweep-columns", "value"),
        Input(FILTERS, "value"),
        Input("sweep-cell", "data"),
        State(FILTERS, "id"),
        State("subject", "data"),
        prevent_initial_call=True,
    )
    def show(
        number: Any, rows: Any, columns: Any, picked: Any, cell: Any, ids: Any, subject: Any
    ) -> tuple[Any, Any]:
        names = [each["name"] for each in ids]
        state = asked(number, rows, columns, dict(zip(names, picked, strict=True)), cell)
        try:
            return answer(context, subject["r"], state)
        except KnowledgeCircuitsError as error:
            return [parts.note(str(error), "error")], []

    app.clientside_callback(
        ClientsideFunction("kc", "pick_cell"),
        Output("sweep-cell", "data"),
        Input("sweep-picture", "clickData"),
        Input("sweep-rows", "value"),
        Input("sweep-columns", "value"),
        Input("sweep-clear", "n_clicks"),
        State("sweep-picture", "figure"),
        State("sweep-cell", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("kc", "keep_sweep"),
        Output("nothing", "data", allow_duplicate=True),
        Input("sweep-number", "value"),
        Input("sweep-rows", "value"),
        Input("sweep-columns", "value"),
        Input(FILTERS, "value"),
        Input("sweep-cell", "data"),
        State(FILTERS, "id"),
        prevent_initial_call=True,
    )


def asked(number: Any, rows: Any, columns: Any, picked: dict[str, Any], cell: Any) -> ViewState:
    """The controls as a state: what is empty filters nothing."""
    where = tuple(
        (name, (value,) if isinstance(value, str) else tuple(value))
        for name, value in picked.items()
        if value
    )
    chosen = tuple(map(str, cell or ()))
    return ViewState(
        rows=str(rows or ""),
        columns=str(columns or ""),
        number=str(number or ""),
        where=where,
        cell=chosen,
    )


def answer(context: Context, result: str, state: ViewState) -> tuple[list[Any], list[Any]]:
    """Matrix and list of units of a state, of the folder as the page saw it."""
    entry = context.library.entry(result)
    return views(context.library, entry, context.library.sweep(result).last(), state)
