"""What is read from a model while one waits: readings, answers without parts, a state's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.exceptions import PreventUpdate

from circuits.base.display import visible
from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.model.wiring import node_kind
from viz.app import details, inside_page, parts
from viz.app.context import Context, prompts_of
from viz.app.difference_page import comparison_of
from viz.app.state import ViewState, parse_state
from viz.app.try_page import job_key
from viz.screen.grids import grid_figure

WAIT = 20.0
"""Seconds that a reading waits for a job to let go of the model."""


def register(app: Dash, context: Context) -> None:
    """Callbacks that run a model."""

    @app.callback(
        Output("live-reading", "children"),
        Input("prompt-choice", "value"),
        State("selected", "data"),
        State("subject", "data"),
    )
    def show_reading(choice: Any, selected: Any, subject: Any) -> Any:
        return parts.or_reason(lambda: reading(context, subject["r"], selected or {}, choice))

    @app.callback(
        Output("answers", "children"),
        Input("off", "data"),
        State("url", "search"),
    )
    def show_answers(off: Any, search: Any) -> Any:
        state, _ = parse_state(search)
        return parts.or_reason(lambda: answers_with(context, state.asked, off or []))

    @app.callback(
        Output("projection", "children"),
        Output("lens-grid", "figure"),
        Input("lens-grid", "clickData"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show_projection(click: Any, search: Any) -> Any:
        state, _ = parse_state(search)
        grid = context.jobs.value(job_key(state))
        place = cell_of(click)
        if place is None or state.look != "lens" or grid is None:
            raise PreventUpdate
        cell = inside_page.chosen_cell(grid, place)
        return inside_page.projection(grid, *cell), grid_figure(grid, cell)

    app.clientside_callback(
        ClientsideFunction("kc", "keep_cell"),
        Output("nothing", "data", allow_duplicate=True),
        Input("lens-grid", "clickData"),
        prevent_initial_call=True,
    )


def cell_of(click: Any) -> str | None:
    """The cell of a click on the grid, as a link has it; None for no click on one."""
    try:
        point = click["points"][0]
        return f"{int(point['y'])}:{int(point['x'])}"
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def reading(context: Context, result: str, selected: dict[str, str], choice: int) -> list[Any]:
    """What the selected node or edge does on one prompt, read from the model.

    Above it stands what is to be known where the circuit was found in other weights. OptionError
    for a circuit of another wiring or tokenizer, and of a model that was edited or patched.
    """
    value, entry = context.library.value(result), context.library.entry(result)
    circuit = value if isinstance(value, Circuit) else comparison_of(value).before
    prompts = prompts_of(circuit)
    if not (isinstance(choice, int) and 0 <= choice < len(prompts)):
        raise OptionError("there is no such prompt")
    if changed := not_as_loaded(circuit):
        raise OptionError(changed)
    words = prompts[choice]
    model_name = str(circuit.provenance.get("model", ""))
    node, edge = selected.get("node", ""), selected.get("edge", "")
    with _Model(context):
        from locate.ask import answers, head_view, without
        from locate.evaluate import fitted, mismatches

        model = context.models.get(model_name)
        circuit = fitted(circuit, model, Path(entry.name))
        beware = [parts.note(told, "warning") for told in mismatches(circuit, model, None, None)]
        question = context.stored_question(model_name, words, circuit.provenance.get("bos"))
        if node and node_kind(node) == "head":
            view = head_view(model, question, node)
            return [*beware, *details.head_reading(view, question.prompt)]
        cut = without(model, [node] if node else (), [edge] if edge else (), circuit.wiring)
        whole, left = answers(model, question), answers(model, question, cut)
    return [*beware, details.answers_table(whole, left, f"Without {node or 'this edge'}")]


def not_as_loaded(circuit: Circuit) -> str:
    """Why the app has not the model that the circuit was found in; empty where it may have it."""
    changes = {"edits": "an edit", "patched": "a patch"}
    for mark, what in changes.items():
        if circuit.provenance.get(mark):
            return (
                f"no live reading: the circuit was found with {what} in the model, and the app has "
                "the model without"
            )
    return ""


def answers_with(context: Context, asked: tuple[str, ...], off: list[str]) -> Any:
    """The ten likeliest answers, and beside them those with parts switched off."""
    with _Model(context):
        from locate.ask import answers, without

        model = context.models.get(asked[0])
        question = context.question(*asked)
        whole, left = answers(model, question), None
        if off:
            edges = [name for name in off if "->" in name]
            nodes = [name for name in off if "->" not in name]
            left = answers(model, question, without(model, nodes, edges))
    text = question.pairs[0].text
    named = ", ".join(off[:4]) + (f" and {len(off) - 4} more" if len(off) > 4 else "")
    return [
        details.answers_table(whole, left, "With parts off"),
        html.P(visible(f"off: {named}") if off else "Nothing is switched off.", className="hint"),
        html.P(
            visible(f"What is off carries values of: {text.corrupted} … {text.foil}"),
            className="hint",
        ),
    ]


class _Model:
    """Within the block no job changes the model's weights; OptionError where one takes too long."""

    def __init__(self, context: Context) -> None:
        self.lock = context.jobs.model_lock

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=WAIT):
            raise OptionError("the model is busy with a job; try again when it is done")

    def __exit__(self, *error: object) -> None:
        self.lock.release()


def reading_of(context: Context, circuit: Circuit, side: str = "") -> Any:
    """A choice of prompts for the live reading, where the model may be loaded.

    `side` says which circuit of a difference is read.
    """
    prompts = prompts_of(circuit)
    if not prompts or not context.models.can_load(str(circuit.provenance.get("model", ""))):
        return None
    if changed := not_as_loaded(circuit):
        return parts.note(changed)
    return html.Div(
        [
            html.H2(f"Live, on one prompt{side and f', {side}'}"),
            dcc.Dropdown(
                id="prompt-choice",
                options=[
                    {"label": visible(each["clean"]), "value": index}
                    for index, each in enumerate(prompts)
                ],
                value=0,
                clearable=False,
            ),
            dcc.Loading(html.Div(id="live-reading"), type="dot", color="#0072B2", delay_show=250),
            html.P(
                dcc.Link(
                    "This prompt inside: every layer at every token",
                    href=inside_link(str(circuit.provenance["model"]), prompts[0]),
                    id="inside-link",
                )
            ),
        ],
        className="live",
    )


def inside_link(model: str, record: Mapping[str, Any]) -> str:
    """The link to the logit-lens grid of a stored pair."""
    state = ViewState(
        view="try",
        look="lens",
        model=model,
        prompt=str(record["clean"]),
        subject=str(record["subject"]),
        answer=str(record["answer"]),
        against=str(record["corrupted"]),
        foil=str(record["foil"]),
    )
    return state.search()


def can_be_cut(node: str) -> bool:
    """Whether a reading of it can be taken."""
    return node_kind(node) in ("head", "mlp")
