"""The page of a circuit-like picture: controls at the left, picture, details and tables.

Circuits, differences and what is tried out live share it. Controls act in the browser
(`assets/kc.js`) on the scene that is sent once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dash import dcc, html

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.model.wiring import node_kind
from viz import theme
from viz.app import parts
from viz.app.controls import DEFAULT_EDGES, controls, unseen_switches
from viz.app.state import ViewState
from viz.app.terms import heads_of
from viz.screen.drawing import as_dict
from viz.screen.scene import Scene

Collapsed = Sequence[Sequence[Any]]
"""Groups that are drawn as boxes, as links and pages tell them: a name and its nodes each."""


@dataclass(frozen=True, eq=False)
class Work:
    """What a workspace shows: the scene, the circuit it is of, and the rows of its tables.

    `lead` says what was found, `error` what could not be done and `warnings` what to beware of.
    `pieces` says which collapsed groups are not one box.
    `result` is the id that callbacks ask the library for; `legend` are the looks of edges with
    their class; `edge_rows` stand in the scene's order.
    """

    result: str
    view: str
    title: str
    subtitle: str
    circuit: Circuit
    scene: Scene
    legend: Sequence[tuple[str, theme.EdgeStyle]]
    edge_rows: Sequence[dict[str, Any]]
    edge_columns: Sequence[dict[str, Any]]
    about: Any
    notes: Sequence[str] = ()
    lead: str = ""
    error: str = ""
    warnings: Sequence[str] = ()
    pieces: Sequence[str] = ()


def scene_data(work: Work) -> dict[str, Any]:
    """The scene with what the browser needs beside it."""
    scene = work.scene
    layers = [row.layer for row in scene.layout.rows] or [0]
    return {
        **as_dict(scene),
        "rows": list(work.edge_rows),
        "classes": [name for name, _ in work.legend],
        "total": work.circuit.n_edges,
        "default_n": min(DEFAULT_EDGES, scene.n_edges),
        "layer_bounds": [min(layers), max(layers)],
    }


def node_rows(circuit: Circuit, scene: Scene) -> list[dict[str, Any]]:
    """One record a node: role, edges in and out, and the sums of their |score|.

    Of the box of a group, the edges into and out of it: those within are left out.
    """
    wiring, kept = circuit.wiring, np.flatnonzero(circuit.kept)
    sources = np.array(wiring.src_names)[wiring.edge_src[kept]]
    heads = np.array(wiring.dst_nodes)[wiring.edge_dst[kept]]
    size = np.ones(len(kept)) if circuit.scores is None else np.abs(circuit.scores.values[kept])
    rows: list[dict[str, Any]] = []
    for name, node in zip(scene.nodes, scene.layout.nodes, strict=True):
        what = circuit.roles.get(node, "") or KIND_NAMES.get(node_kind(node), node_kind(node))
        if node not in scene.boxes:
            out, into = sources == node, heads == node
        else:
            into, out = (np.isin(kept, edges) for edges in scene.layout.meets(node))
            what = f"group of {len(scene.layout.boxes[node].members)}"
        rows.append(
            {
                "node": name,
                "what": what,
                "in": int(into.sum()),
                "out": int(out.sum()),
                "mass": float(size[out].sum() + size[into].sum()),
            }
        )
    rows.sort(key=lambda row: -row["mass"])
    return rows


def workspace(
    work: Work,
    state: ViewState,
    extra: Any = None,
    before: Any = None,
    live: bool = False,
    above: Any = None,
) -> html.Div:
    """The page; `extra` stands above the details (answers, curves), `before` above the controls.

    `above` stands over the picture, as links to other views of the same.

    Only where it is `live` do `extra`'s parts hold the switches; elsewhere they are there, unseen,
    as callbacks that name them would else find nothing.
    """
    scene = work.scene
    nodes = set(scene.nodes)
    edge_known = state.edge in set(scene.names) or _is_edge(work.circuit, state.edge)
    selected: dict[str, str] = {}
    if state.node in nodes:
        selected = {"node": state.node}
    elif state.edge and edge_known:
        selected = {"edge": state.edge}
    return html.Div(
        [
            dcc.Store(id="scene", data=scene_data(work)),
            dcc.Store(id="selected", data=selected),
            dcc.Store(id="groups", data=[[title, list(each)] for title, each in state.groups]),
            dcc.Store(id="boxes", data=[[title, list(each)] for title, each in state.boxes]),
            dcc.Store(id="off", data=list(state.off)),
            None if live else unseen_switches(),
            controls(scene, work.legend, state, before, work.pieces),
            html.Section(
                [
                    above,
                    zoom_buttons(),
                    parts.picture_head(
                        work.title,
                        work.subtitle,
                        parts.note(work.error, "error") if work.error else None,
                        *(parts.note(text, "warning") for text in work.warnings),
                        *(parts.note(text) for text in work.notes),
                        lead=work.lead,
                        heads=heads_of([*work.edge_columns, *NODE_COLUMNS]),
                    ),
                    html.Div(
                        [
                            parts.graph(
                                "picture",
                                f"{work.title}. The table at the right holds the same edges.",
                            ),
                        ],
                        className="picture-pane",
                    ),
                ],
                className="centre",
                **parts.aria(label="picture"),
            ),
            html.Aside(
                [
                    html.Div(
                        [
                            html.Div(extra) if extra else None,
                            html.Div(
                                id="details",
                                children=work.about,
                                className="details",
                                **parts.aria(live="polite"),
                            ),
                        ],
                        className="right-top",
                    ),
                    html.Div(
                        [
                            dcc.RadioItems(
                                id="tables",
                                options=[
                                    {"label": "Edges", "value": "edges"},
                                    {"label": "Nodes", "value": "nodes"},
                                ],
                                value="edges",
                                className="tabs",
                                inline=True,
                            ),
                            html.Div(
                                parts.table("edges-table", work.edge_columns, []),
                                id="edges-body",
                                className="tab-body",
                            ),
                            html.Div(
                                parts.table(
                                    "nodes-table", NODE_COLUMNS, node_rows(work.circuit, scene)
                                ),
                                id="nodes-body",
                                className="tab-body away",
                            ),
                        ],
                        className="right-bottom",
                    ),
                ],
                className="right",
                **parts.aria(label="details and tables"),
            ),
        ],
        className="work",
    )


KIND_NAMES = {"kv": "key-value head", "mlp": "MLP"}


def zoom_buttons() -> html.Div:
    """Nearer, farther, and the whole picture again; the wheel and dragging do the same."""
    buttons = (("in", "+", "Zoom in"), ("out", "−", "Zoom out"), ("fit", "Fit", "Whole picture  0"))
    return html.Div(
        [
            html.Button(sign, id=f"zoom-{name}", title=title, **parts.aria(label=title))
            for name, sign, title in buttons
        ],
        className="zoom",
    )


NODE_COLUMNS = [
    parts.column("node", "node", 86),
    parts.column("what", "what it is", 110),
    parts.column("in", "in", 54, numeric=True),
    parts.column("out", "out", 54, numeric=True),
    parts.column("mass", "Σ|score|", 80, numeric=True),
]


def _is_edge(circuit: Circuit, name: str) -> bool:
    if "->" not in name:
        return False
    try:
        circuit.wiring.edge_index(name)
    except OptionError:
        return False
    return True
