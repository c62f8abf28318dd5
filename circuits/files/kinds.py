"""The kinds of stored results: one row a kind says all that files, figures and the app need.

Names of functions and classes are "module:name" and are imported when needed, so that the table
itself needs none of the rooms above. `add_kind` adds a row for a class of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from circuits.base.arrays import kind_of
from circuits.base.choices import FigureKind
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.plugins import open_table
from circuits.base.results import Result

Named = str | Callable[..., Any]
"""A function or class, or "module:name" of one."""


@dataclass(frozen=True)
class Kind:
    """One kind of stored result.

    `holds` is its class, `figures` its pictures on paper by what they show (the first is drawn
    where none is named), `screen` likewise those on the screen, `view` the page of the app that
    opens it. `graph` says that edges can be exported as a graph. `says` explains the picture and
    `columns` names what the table of the page "rows" shows, by default everything.
    """

    name: str
    holds: Named | None = None
    figures: Mapping[str, Named] = field(default_factory=dict)
    screen: Mapping[str, Named] = field(default_factory=dict)
    view: str = "record"
    label: str = ""
    graph: bool = False
    says: str = ""
    columns: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What a list calls it."""
        return self.label or self.name


def _kinds(*rows: Kind) -> dict[str, Kind]:
    return open_table({row.name: row for row in rows})


KINDS: dict[str, Kind] = _kinds(
    Kind(
        "circuit",
        "circuits.graph.circuit:Circuit",
        {
            FigureKind.CIRCUIT: "viz.paper.circuit:draw_circuit",
            FigureKind.LAYERS: "viz.paper.layers:draw_layers",
            FigureKind.SPANS: "viz.paper.spans:draw_spans",
        },
        {
            FigureKind.CIRCUIT: "viz.screen.circuit:circuit_figure",
            FigureKind.LAYERS: "viz.screen.layers:layers_figure",
            FigureKind.SPANS: "viz.screen.spans:spans_figure",
        },
        "circuit",
        graph=True,
    ),
    Kind(
        "comparison",
        "circuits.graph.comparison:Comparison",
        {FigureKind.DIFFERENCE: "viz.paper.difference:draw_difference"},
        {FigureKind.DIFFERENCE: "viz.screen.difference:difference_figure"},
        "difference",
        graph=True,
    ),
    Kind(
        "rewiring",
        "locate.changes.rewired:Rewiring",
        {
            FigureKind.DIFFERENCE: "viz.paper.difference:draw_difference",
            FigureKind.OBJECTS: "viz.paper.lenses:draw_objects",
        },
        {FigureKind.OBJECTS: "viz.screen.curves:followed_figure"},
        "difference",
        graph=True,
    ),
    Kind(
        "trace",
        "locate.states.trace_result:Trace",
        {FigureKind.TRACE: "viz.paper.curves:draw_trace"},
        {FigureKind.TRACE: "viz.screen.heat_maps:trace_figure"},
        "trace",
    ),
    Kind(
        "average trace",
        "locate.states.trace_roles:AverageTrace",
        {FigureKind.TRACE: "viz.paper.curves:draw_average_trace"},
        {FigureKind.TRACE: "viz.screen.heat_maps:trace_figure"},
        "trace",
    ),
    Kind(
        "lens",
        "locate.states.lens_result:LensResult",
        {FigureKind.LENS: "viz.paper.lenses:draw_prompt_lens"},
        {FigureKind.LENS: "viz.screen.curves:lens_figure"},
        "lens",
    ),
    Kind(
        "average lens",
        "locate.states.lens_curves:AverageLens",
        {FigureKind.LENS: "viz.paper.lenses:draw_average_lens"},
        {FigureKind.LENS: "viz.screen.curves:lens_figure"},
        "lens",
    ),
    Kind(
        "attribution",
        "locate.states.logit_attribution:LogitAttribution",
        screen={"contributions": "viz.screen.curves:contributions_figure"},
        view="rows",
        says="What each source adds to the answer's logit over the foil's, directly.",
    ),
    Kind(
        "faithfulness curves",
        "circuits.graph.curve:FaithfulnessCurves",
        {FigureKind.FAITHFULNESS: "viz.paper.curves:draw_faithfulness"},
        {FigureKind.FAITHFULNESS: "viz.screen.curves:curve_figure"},
        "rows",
        label="curve",
        says="0: nothing restored, 1: the whole model. Bands are 95 % bootstrap intervals.",
    ),
    Kind(
        "roles",
        "locate.heads.role_report:RoleReport",
        screen={"roles": "viz.screen.heads:roles_figure"},
        view="rows",
        says="Each head's share of all heads' work as a mover (across) and relation head (up).",
        columns=("head", "role", "score", "writes", "verdict"),
    ),
    Kind(
        "heads on prompts",
        "locate.heads.heads_on_prompts:HeadsOnPrompts",
        {
            FigureKind.ATTENTION: "viz.paper.heads:draw_attention",
            FigureKind.TOKENS: "viz.paper.heads:draw_written",
        },
        {
            FigureKind.ATTENTION: "viz.screen.heads:attention_figure",
            FigureKind.TOKENS: "viz.screen.heads:written_figure",
        },
        "rows",
        says="Bars: value-weighted attention from the last token; below, the tokens heads write.",
    ),
    Kind(
        "carriers",
        "locate.features.carriers:Carriers",
        screen={"carriers": "viz.screen.curves:carriers_figure"},
        view="rows",
        says="What carries edges between features: no head, one head, or two and more.",
    ),
    Kind(
        "neurons",
        "locate.neurons.report:NeuronReport",
        screen={"neurons": "viz.screen.neurons:neurons_figure"},
        view="rows",
        says="What an MLP's best neurons carry of what it does, beside as many random ones (grey).",
        columns=("neuron", "score", "place", "tokens", "writes"),
    ),
    Kind("sweep unit", "circuits.files.units:Record", view="rows", label="unit of a sweep"),
    Kind("weight-delta", "circuits.edits.edit:WeightDelta", label="edit"),
    Kind("second-moments", "circuits.edits.parts.moments:Moments", label="second moments"),
)
SWEEP = Kind("sweep", view="sweep")
"""A folder of units, which is no file of its own."""
REPORT = Kind("report", view="report")
"""A folder of an analysis with its page."""
OTHER = Kind("other", label="file")
DAMAGED = Kind("damaged")


def add_kind(
    holds: type[Result],
    *,
    screen: Callable[..., Any] | None = None,
    paper: Callable[..., Any] | None = None,
    label: str = "",
) -> Kind:
    """Have files of a class of your own opened, listed, shown and drawn like all others.

    `screen(result)` gives a plotly figure, `paper(result, path)` writes a file. OptionError where
    another class has the kind already.
    """
    name = holds.KIND
    if name in KINDS and named(KINDS[name].holds) is not holds:
        raise OptionError(f"there is a kind {name!r} already; choose another KIND")
    figures: dict[str, Named] = {}
    if paper is not None:
        figures[FigureKind.add(name.replace(" ", "-"), paper, f"a {label or name}")] = paper
    pictures = {} if screen is None else {name: screen}
    KINDS[name] = Kind(name, holds, figures, pictures, "rows", label)
    return KINDS[name]


def find_kind(name: str) -> Kind:
    """The row of a kind by its name; `OTHER` for one that is not in the table."""
    return KINDS.get(name, OTHER)


def kind_of_result(result: Any) -> Kind:
    """The row of a result; OptionError where its class is not in the table."""
    kind = find_kind(getattr(type(result), "KIND", ""))
    if kind is OTHER:
        raise OptionError(f"a {type(result).__name__} is no stored kind of result")
    return kind


def named(target: Named | None) -> Any:
    """What "module:name" names, imported now; a function or class is itself."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def open_result(path: str | Path) -> Any:
    """The result in a file, whatever its kind; FileFormatError names the file and the reason."""
    kind = find_kind(kind_of(path))
    if kind.holds is None:
        raise FileFormatError(path, f"holds a {kind_of(path)!r:.60}, which no class reads")
    return named(kind.holds).load(path)
