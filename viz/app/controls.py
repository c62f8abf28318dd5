"""What stands at the left of a picture: sliders, search, filters and groups of nodes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from dash import dcc, html

from circuits.base.display import visible
from circuits.model.wiring import node_kind
from viz import theme
from viz.app import parts
from viz.app.state import ViewState
from viz.groups import LONGEST_NAME
from viz.screen.scene import Scene

DEFAULT_EDGES = 150
NODE_KINDS = ("head", "kv", "mlp")


def unseen_switches() -> html.Div:
    """The switches of a live page, for pages that have none."""
    return html.Div(
        [
            html.Button(id="off-toggle"),
            html.Button(id="off-clear"),
            dcc.Checklist(id="click-off", options=["y"], value=[]),
        ],
        hidden=True,
    )


def controls(
    scene: Scene,
    legend: Sequence[tuple[str, theme.EdgeStyle]],
    state: ViewState,
    before: Any = None,
    pieces: Sequence[str] = (),
) -> html.Nav:
    """Sliders, search, filters that are the legend as well, and groups; `before` stands first."""
    n_edges = scene.n_edges  # of the circuit: a group can be expanded without a new slider
    shown = [name for name, _ in legend if name not in state.hide]
    layers = [row.layer for row in scene.layout.rows] or [0]
    bounds = [min(layers), max(layers)]
    chosen = list(state.layers) if state.layers else bounds
    chosen = [max(bounds[0], min(bounds[1], each)) for each in chosen]
    kinds = {node_kind(node) for node in scene.layout.nodes}
    roles = [role for role in theme.ROLES if role in set(scene.roles.values())]
    labels = {"head": "heads", "kv": "key-value heads", "mlp": "MLPs"}
    children: list[Any] = [
        before,
        _slider("Edges", "count", "n", 1, max(2, n_edges), min(state.n or DEFAULT_EDGES, n_edges)),
        _slider("Score", "least", "t", 0, 100, _position(state.t, scene)),
        html.Div(
            [
                *parts.search_field(
                    "search",
                    "Find a node or edge",
                    state.q,
                    "Find a node or edge   /",
                    list="node-names",
                ),
                html.Datalist([html.Option(value=node) for node in scene.nodes], id="node-names"),
            ],
            className="control",
        ),
        _checklist(
            "Lines",
            "classes",
            shown,
            [parts.option(style.legend, name, parts.edge_sample(style)) for name, style in legend],
        ),
    ]
    if scene.layout.shared:
        children.append(
            html.Div(
                [parts.edge_sample(theme.SHARED), theme.SHARED.legend], className="choice fixed"
            )
        )
    children += [
        _checklist(
            "Only roles",
            "role",
            [role for role in state.role if role in roles],
            [
                parts.option(theme.ROLES[role].legend, role, parts.node_sample(theme.ROLES[role]))
                for role in roles
            ],
            hidden=not roles,
        ),
        _checklist(
            "Only kinds",
            "kind",
            [kind for kind in state.kind if kind in kinds],
            [
                parts.option(
                    labels[kind], kind, parts.node_sample(theme.KINDS[kind], kind != "head")
                )
                for kind in NODE_KINDS
                if kind in kinds
            ],
        ),
        _control(
            "Layers",
            None,
            dcc.RangeSlider(
                id="layers",
                min=bounds[0],
                max=max(bounds[1], bounds[0] + 1),
                step=1,
                value=chosen,
                marks={layer: str(layer) for layer in bounds},
                allow_direct_input=False,
                updatemode="drag",
            ),
            hidden=bounds[0] == bounds[1],
        ),
        html.Div(
            [
                html.Label("Groups", className="label", htmlFor="group-name"),
                html.Div(id="group-list"),
                html.Div(pieces_said(pieces), id="group-note", **parts.aria(live="polite")),
                html.Div(
                    [
                        dcc.Input(
                            id="group-name",
                            placeholder="name",
                            className="small-input",
                            maxLength=LONGEST_NAME,
                            autoComplete="off",
                        ),
                        html.Button(
                            "Pin node",
                            id="pin",
                            className="button",
                            title="Put the selected node into the group, or take it out",
                        ),
                    ],
                    className="row",
                ),
                dcc.Checklist(
                    id="only-groups",
                    options=[{"label": "only pinned", "value": "y"}],
                    value=[],
                    className="choices",
                ),
            ],
            className="control",
        ),
    ]
    return html.Nav(children, className="left", **parts.aria(label="what is shown"))


def group_list(
    groups: Sequence[tuple[str, Sequence[str]]], collapsed: Container[str] = ()
) -> list[Any]:
    """The groups with their nodes, each with buttons that collapse it and that take it away."""
    if not groups:
        return [html.P("Select a node, name a group, pin.", className="hint")]
    return [
        html.Div(
            [
                html.Div([html.B(title), html.Span(", ".join(nodes), className="hint")]),
                collapse_button(index, title, title in collapsed),
                html.Button(
                    "×",
                    id={"type": "unpin", "index": index},
                    className="icon",
                    title=f"Remove the group {title}",
                    **parts.aria(label=f"remove the group {title}"),
                ),
            ],
            className="group",
        )
        for index, (title, nodes) in enumerate(groups)
    ]


def pieces_said(pieces: Sequence[str]) -> list[html.P]:
    """Why a collapsed group is not one box."""
    return [html.P(visible(text), className="hint") for text in pieces]


def clear_button() -> html.Button:
    """Lets go of what is selected, as Escape does."""
    return html.Button("Clear", id="clear", className="button quiet", title="Esc")


def collapse_button(index: int | str, title: str, collapsed: bool) -> html.Button:
    """What draws a group as one box, or all its nodes again; `index` is its place or its name."""
    verb = "Expand" if collapsed else "Collapse"
    return html.Button(
        verb,
        id={"type": "collapse", "index": index},
        className="button quiet",
        title=f"{verb} the group {title}   g",
        **parts.aria(label=f"{verb.lower()} the group {title}", pressed=str(collapsed).lower()),
    )


def _control(label: str, value: Any, control: Any, hidden: bool = False) -> html.Div:
    head = html.Div([html.Span(label, className="label"), value], className="control-head")
    return html.Div([head, control], className="control", hidden=hidden)


def _slider(label: str, shown: str, id: str, low: int, high: int, value: int) -> html.Div:
    """A slider, with its value in words (written by the script) at the id `shown`."""
    slider = dcc.Slider(
        id=id,
        min=low,
        max=high,
        step=1,
        value=value,
        updatemode="drag",
        marks=None,
        allow_direct_input=False,
    )
    return _control(label, html.Span(id=shown, className="value"), slider)


def _checklist(
    label: str, id: str, value: list[str], options: Any, hidden: bool = False
) -> html.Div:
    chosen = dcc.Checklist(id=id, value=value, className="choices", options=options)
    return _control(label, None, chosen, hidden)


def _position(threshold: float, scene: Scene) -> int:
    """Where the slider stands for a threshold: 100 is the largest score, 0 none."""
    largest = float(scene.size.max(initial=0.0))
    if threshold <= 0 or largest <= 0:
        return 0
    return int(np.clip(round(100 * (1 + np.log10(threshold / largest) / 3)), 1, 100))
