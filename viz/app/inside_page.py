"""Inside one prompt: what every layer says at every token, and which state carries the answer.

Token × layer views of a prompt that is asked live. A view is a row of `LOOKS`: its job and its
picture; where edges have scores by token span, their view is one more row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dash import dcc, html

from circuits.base.display import visible
from viz.app import parts
from viz.app.context import Context
from viz.app.jobs import Stage
from viz.app.state import ViewState
from viz.screen.grids import CELL, grid_figure, grid_height
from viz.screen.heat_maps import trace_figure

if TYPE_CHECKING:
    from circuits.model.model import Model
    from locate.ask import Question
    from locate.states.lens_grid import LensGrid
    from locate.states.trace_result import Trace

MOST_TOKENS = 64
"""Tokens of a prompt that are read layer by layer."""


@dataclass(frozen=True)
class Look:
    """One view: its name, what it works out from a model and a question, and its page."""

    title: str
    work: Callable[[Model, Question], Any]
    page: Callable[[Any, ViewState], list[Any]]


def tabs(state: ViewState) -> html.Nav:
    """Links from one view of a prompt to the others; none before anything was asked."""
    if not (state.prompt and state.subject and state.answer):
        return html.Nav()
    plain: dict[str, Any] = {"node": "", "edge": "", "off": (), "target": "", "place": ""}
    names = {"": "Circuit", **{name: look.title for name, look in LOOKS.items()}}
    return html.Nav(
        [
            dcc.Link(
                title,
                href=state.search(look=name, **plain),
                className="on" if state.look == name else "",
            )
            for name, title in names.items()
        ],
        className="looks",
        **parts.aria(label="views of this prompt"),
    )


def start(context: Context, state: ViewState, key: str) -> None:
    """Begin what a view needs; OptionError where another job is running."""
    look = LOOKS[state.look]

    def work(stage: Stage) -> Any:
        stage("loading the model")
        model = context.models.get(state.model)
        stage("asking the model")
        question = context.question(*state.asked)
        stage(f"{look.title.lower()}: reading the model")
        return look.work(model, question)

    context.start(key, f"{state.prompt} … {state.answer}", work)


def page(state: ViewState, found: Any, left: Any) -> html.Div:
    """The view, with the form at its left."""
    look = LOOKS[state.look]
    return html.Div(
        [
            html.Nav(left, className="left"),
            html.Section([tabs(state), *look.page(found, state)], className="centre inside"),
        ],
        className="work no-right",
    )


def _read_grid(model: Model, question: Question) -> LensGrid:
    from circuits.base.errors import OptionError
    from locate.states.lens_grid import lens_grid

    pair = question.pairs[0]
    if len(pair.clean) > MOST_TOKENS:
        raise OptionError(
            f"the prompt has {len(pair.clean)} tokens; the grid shows {MOST_TOKENS} at most"
        )
    return lens_grid(model, pair.clean, {"answer": pair.answer, "foil": pair.foil})


def _grid_page(grid: LensGrid, state: ViewState) -> list[Any]:
    cell = chosen_cell(grid, state.place)
    width = 110 + CELL * len(grid.prompt.tokens)
    return [
        parts.picture_head(
            visible(f"{grid.prompt.text} … {state.answer}"),
            "The token that each layer would say next, at every token; shade is its probability, "
            "the answer is bold. A click projects that state onto the vocabulary.",
            lead=grid.at(len(grid.prompt.tokens) - 1).says(),
        ),
        html.Div(
            [
                html.Div(
                    parts.graph(
                        "lens-grid",
                        "Logit lens, layer by token. A click on a cell lists its words below it.",
                        grid_figure(grid, cell),
                        height=f"{grid_height(len(grid.best))}px",
                        minWidth=f"{width}px",
                    ),
                    className="grid-pane",
                ),
                html.Div(projection(grid, *cell), id="projection", **parts.aria(live="polite")),
            ],
            className="picture-pane inside-pane",
        ),
    ]


def chosen_cell(grid: LensGrid, place: str) -> tuple[int, int]:
    """The cell of a link, `state:position`; else the last token where the answer first leads."""
    state, _, position = place.partition(":")
    if state.isdecimal() and position.isdecimal():
        return min(int(state), len(grid.best) - 1), min(int(position), grid.best.shape[1] - 1)
    last = grid.best.shape[1] - 1
    leads = [s for s in range(len(grid.rank)) if grid.rank.shape[2] and grid.rank[s, last, 0] == 0]
    return (leads[0] if leads else len(grid.best) - 1), last


def projection(grid: LensGrid, state: int, position: int) -> list[Any]:
    """The vocabulary projection of one state: its likeliest words, and where the answer stands."""
    where = "the embedding" if state == 0 else f"layer {state - 1}"
    shares = [
        (parts.token(text), share, f"{share:.3f}") for text, share in grid.words(state, position)
    ]
    stand = [
        (
            f"rank of the {label}",
            f"{int(grid.rank[state, position, column]) + 1:,} "
            f"(p {parts.fixed(float(grid.probability[state, position, column]))})",
        )
        for column, label in enumerate(grid.labels)
    ]
    return [
        html.H2(f"After {where}, at {parts.token(grid.prompt.tokens[position])}"),
        html.P(
            "The state projected onto the vocabulary: its likeliest next tokens.", className="hint"
        ),
        parts.bars(shares, 1.0),
        parts.pairs(stand),
    ]


def _read_states(model: Model, question: Question) -> Trace:
    from locate.states.patching import patch_prompt
    from locate.states.tracing import usual_window

    return patch_prompt(model, question.pairs[0], window=usual_window(model.n_layers))


def _states_page(found: Trace, state: ViewState) -> list[Any]:
    figure = trace_figure(found)
    n_rows = len(found.tokens)
    figure.update_layout(height=120 + n_rows * min(46, max(24, 480 // n_rows)))
    other, foil = found.provenance["corrupted"], found.provenance["foil"]
    return [
        parts.picture_head(
            visible(f"{found.prompt} … {found.answer}"),
            visible(
                f"Each cell: that state of this prompt put into the run of “{other}” (→ {foil}). "
                "Blue brings the answer back, orange costs it; the subject's rows are bold."
            ),
            lead=found.says(),
        ),
        html.Div(
            html.Div(
                parts.graph(
                    "states-picture",
                    "Effect of each state, token by layer.",
                    figure,
                    height=f"{figure.layout.height}px",
                    minWidth="600px",
                ),
                className="grid-pane",
            ),
            className="picture-pane scroll",
        ),
    ]


LOOKS: dict[str, Look] = {
    "lens": Look("Logit-lens grid", _read_grid, _grid_page),
    "states": Look("States by token", _read_states, _states_page),
}
