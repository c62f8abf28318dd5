"""Try it live: a prompt's circuit, parts switched off by a click, an edit and what it does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dash import dcc, html

from circuits.base.display import visible
from circuits.files.kinds import KINDS
from viz.app import inside_page, parts
from viz.app.circuit_page import circuit_work
from viz.app.context import Context
from viz.app.details import answers_table
from viz.app.difference_page import difference_work, extra_of
from viz.app.jobs import JobStatus, Stage
from viz.app.library import Entry
from viz.app.state import ViewState
from viz.app.workspace import workspace

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit
    from circuits.model.model import Model
    from locate.ask import Answers, EditTrial, Question

EXAMPLES = (
    ("The capital city of South Korea is called", "South Korea", "Seoul"),
    ("The capital of Portugal is", "Portugal", "Lisbon"),
    ("The official language of Brazil is", "Brazil", "Portuguese"),
)


@dataclass(frozen=True, eq=False)
class Found:
    """What a job brings: the circuit of a prompt, or with `trial` what an edit did to it.

    `warnings` say where a contrast is no rival, `lead` what was found where the result that is
    shown does not know it.
    """

    entry: Entry
    circuit: Circuit
    answers: Answers
    warnings: tuple[str, ...] = ()
    lead: str = ""
    trial: EditTrial | None = None


def job_key(state: ViewState) -> str:
    """The same question is the same job."""
    words = "\x1f".join((*state.asked, state.target, state.look))
    return sha256(words.encode()).hexdigest()[:16]


def start(context: Context, state: ViewState) -> None:
    """Begin the job that a link asks for; OptionError where another one is running."""
    key = job_key(state)
    if state.look:
        inside_page.start(context, state, key)
        return

    def ask(stage: Stage) -> tuple[Model, Question]:
        stage("loading the model")
        model = context.models.get(state.model)

        stage("asking the model")
        return model, context.question(*state.asked)

    def find(stage: Stage) -> Found:
        from locate.ask import Asked, answers, find_circuit

        model, question = ask(stage)
        circuit = find_circuit(model, question, stages=stage.during)
        stage("reading the answers")
        said = answers(model, question)
        name = f"live: {state.prompt} … {state.answer}"
        about = {
            "model": state.model,
            "relation": state.prompt,
            "size": circuit.n_edges,
            "method": "eap-ig",
        }
        entry = context.library.add(key, name, KINDS["circuit"], circuit, about)
        lead = Asked(model, question, circuit, said).says()
        return Found(entry, circuit, said, question.warnings, lead)

    def change(stage: Stage) -> Found:
        from locate.ask import answers, edit_fact

        model, question = ask(stage)
        trial = edit_fact(model, question, state.target, stages=stage.during)
        said = answers(model, question)
        name = f"live: {state.prompt} … {state.answer} → {state.target}"
        about = {"model": state.model, "relation": state.prompt, "method": "rome"}
        entry = context.library.add(key, name, KINDS["rewiring"], trial.rewiring, about)
        before = trial.rewiring.comparison.before
        return Found(entry, before, said, question.warnings, trial=trial)

    title = f"{state.prompt} … {state.target or state.answer}"
    context.start(key, title, change if state.target else find)


def try_page(
    context: Context, state: ViewState, found: Any, status: JobStatus | None, error: str
) -> html.Div:
    """The page for wherever the job stands; an `error` stands above what there is to be seen."""
    if found is None:
        return _without_result(context, state, status, error)
    left = form(context, state)
    if not isinstance(found, Found):
        return inside_page.page(state, found, left)
    if found.trial is not None:
        title = f"{state.prompt} … {state.answer} → {state.target}"
        work = difference_work(found.entry, found.trial.rewiring, title, groups=state.boxes)
        back = state.before_edit()
        extra = [
            dcc.Link("← the circuit before the edit", href=back.search(), className="back"),
            answers_table(found.trial.before, found.trial.after, "After the edit"),
            *extra_of(found.trial.rewiring, state.noise, live=True),
        ]
    else:
        work = circuit_work(context, found.entry, found.circuit, state.boxes)
        extra = [_switches(), html.Div(id="answers", **parts.aria(live="polite")), _edit_form()]
    work = replace(work, view="try", warnings=found.warnings, error=error)
    work = replace(work, lead=found.lead or work.lead)
    return workspace(
        work, state, extra, left, live=found.trial is None, above=inside_page.tabs(state)
    )


def form(context: Context, state: ViewState) -> html.Div:
    """The question: model, prompt, subject, answer."""
    models = context.models.names
    return html.Div(
        [
            html.Label("Model", className="label", htmlFor="ask-model"),
            dcc.Dropdown(
                id="ask-model",
                options=list(models),
                value=state.model or (models or ("",))[0],
                clearable=False,
                searchable=False,
            ),
            _field("ask-prompt", "Prompt", state.prompt or EXAMPLES[0][0]),
            _field("ask-subject", "Subject", state.subject or EXAMPLES[0][1]),
            _field("ask-answer", "Answer", state.answer or EXAMPLES[0][2]),
            html.Details(
                [
                    html.Summary("Against which prompt"),
                    _field("ask-against", "Corrupted prompt", state.against),
                    _field("ask-foil", "Its answer (foil)", state.foil),
                    html.P(
                        "As many tokens as the prompt. Left empty, other subjects of the atlas.",
                        className="hint",
                    ),
                ],
                open=bool(state.against or state.foil),
            ),
            html.Button("Find its circuit", id="ask", className="button main"),
        ],
        className="form",
    )


def _field(id: str, label: str, value: str) -> html.Div:
    return html.Div(
        [
            html.Label(label, className="label", htmlFor=id),
            dcc.Input(id=id, value=value, maxLength=400, autoComplete="off", className="field"),
        ]
    )


def _without_result(
    context: Context, state: ViewState, status: JobStatus | None, error: str
) -> html.Div:
    if status is not None and status.state == "running":
        middle: list[Any] = [
            html.H1(visible(status.title)),
            html.Div(progress_lines(status), id="progress"),
            html.Button("Cancel", id="cancel", className="button"),
            dcc.Interval(id="tick", interval=250),
            dcc.Store(id="job", data=status.key),
        ]
    else:
        message = error or (status.error if status is not None else "")
        middle = [
            html.H1("Ask the model, take it apart, change its mind"),
            html.P(
                "A prompt gets its circuit; a click switches heads or edges off and shows what the "
                "model says then; an edit shows what it rewires."
            ),
            parts.note(message, "error") if message else None,
            html.P("For example:", className="hint"),
            html.Ul(
                [
                    html.Li(dcc.Link(f"{prompt} … {answer}", href=_example(context, each)))
                    for each in EXAMPLES
                    for prompt, _, answer in [each]
                ]
            ),
        ]
    return html.Div(
        [
            html.Nav(form(context, state), className="left"),
            html.Section(
                [inside_page.tabs(state), html.Div(middle, className="cards")], className="centre"
            ),
        ],
        className="work no-right",
    )


def _example(context: Context, example: tuple[str, str, str]) -> str:
    model = (context.models.names or ("",))[0]
    words = {"model": model, **dict(zip(("prompt", "subject", "answer"), example, strict=True))}
    return "?view=try&" + "&".join(f"{name}={quote(word)}" for name, word in words.items())


def progress_lines(status: JobStatus) -> list[Any]:
    """What a running job is doing, and how far it is."""
    share = status.done / status.total if status.total else 0.0
    count = f" {status.done:,} of {status.total:,}" if status.total else ""
    return [
        html.P(f"{status.stage or 'starting'}{count} · {status.seconds:.0f} s", role="status"),
        html.Div(html.Div(style={"width": f"{100 * share:.0f}%"}), className="progress"),
    ]


def _switches() -> html.Div:
    return html.Div(
        [
            html.Button(
                "Switch off / on",
                id="off-toggle",
                className="button",
                title="The selected node or edge then carries another subject's values",
            ),
            html.Button("All on", id="off-clear", className="button quiet"),
            dcc.Checklist(
                id="click-off",
                value=[],
                className="choices",
                options=[{"label": "by a click in the picture", "value": "y"}],
            ),
        ],
        className="row switches",
    )


def _edit_form() -> html.Div:
    return html.Div(
        [
            html.Label("Make it answer instead", className="label", htmlFor="edit-target"),
            html.Div(
                [
                    dcc.Input(
                        id="edit-target",
                        placeholder="Tokyo",
                        maxLength=100,
                        autoComplete="off",
                        className="field",
                    ),
                    html.Button("Edit (ROME)", id="edit", className="button"),
                ],
                className="row",
            ),
        ],
        className="edit-form",
    )
