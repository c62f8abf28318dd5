"""Before and after: what became of every edge, and how the objects' ranks moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

from circuits.base.display import visible
from circuits.edits.provenance import JUDGED
from circuits.edits.provenance import changed as changed_by
from circuits.graph.comparison import Comparison
from viz import theme
from viz.app import parts
from viz.app.details import known_facts
from viz.app.edit_page import SCORINGS, heads_table, measures_of
from viz.app.library import Entry
from viz.app.workspace import Collapsed, Work
from viz.marking import marked
from viz.paper.difference import either_circuit
from viz.screen.boxes import groups_of, in_pieces
from viz.screen.circuit import MOST_EDGES
from viz.screen.curves import followed_figure
from viz.screen.difference import STATUS, difference_left_out, difference_scene
from viz.screen.scene import Scene

NOISE = {"on": True, "off": False}
"""What a link says of marking what cannot be told from noise; anything else is the default."""
COLUMNS = [
    parts.column("edge", "edge", 138, minWidth=130),
    parts.column("before", "before", 72, numeric=True),
    parts.column("after", "after", 72, numeric=True),
    parts.column("status", "status", 98),
]


def comparison_of(value: Any) -> Comparison:
    """The comparison in a comparison or a rewiring."""
    return value if isinstance(value, Comparison) else value.comparison


def difference_work(
    entry: Entry, value: Any, title: str = "", noise: str = "", groups: Collapsed = ()
) -> Work:
    """What the workspace shows of a comparison or a rewiring.

    `noise` is a link's word for whether what cannot be told from noise is marked.
    """
    comparison = comparison_of(value)
    shown, said = marked(comparison, NOISE.get(noise))
    boxes = groups_of(groups, comparison.before.wiring)
    scene = difference_scene(shown, MOST_EDGES, groups=boxes)
    union = either_circuit(comparison)
    origin = {**comparison.before.provenance, **getattr(value, "provenance", {})}
    present = set(scene.classes)
    named = edit_named(origin) or entry.name
    return Work(
        result=entry.id,
        view="difference",
        title=visible(title or named),
        lead=value.says(),
        subtitle=visible(_subtitle(comparison)),
        circuit=union,
        scene=scene,
        legend=[(name, style) for style, name in STATUS.items() if name in present],
        edge_rows=edge_rows(comparison, scene),
        edge_columns=columns_of(comparison),
        about=known_facts(_facts(comparison, value), origin),
        notes=list(filter(None, (said, difference_left_out(comparison, scene)))),
        pieces=in_pieces(boxes, scene.layout),
    )


def edit_named(origin: Mapping[str, Any]) -> str:
    """What was edited, in words; else what was asked, where that is known."""
    if named := changed_by(origin.get("edit")):
        return named
    relation, model = origin.get("relation"), origin.get("model")
    return f"{relation} in {model}, before and after" if relation and model else ""


def side_read(value: Any) -> str:
    """Which side of a comparison or a rewiring the model is read for, in words."""
    edited = value.provenance.get("edit") or comparison_of(value).after.provenance.get("edits")
    return "before the edit" if edited else "for the circuit before"


def edge_rows(comparison: Comparison, scene: Scene) -> list[dict[str, Any]]:
    """One record a line, in the scene's order; of several edges it has the sums of the scores."""
    rows: list[dict[str, Any]] = [
        {"edge": name, "status": status}
        for name, status in zip(scene.names, scene.classes, strict=True)
    ]
    if comparison.scores is not None:
        for side, values in zip(("before", "after"), comparison.scores, strict=True):
            for row, total in zip(rows, scene.layout.totals(values).tolist(), strict=True):
                row[side] = total
    return rows


def columns_of(comparison: Comparison) -> list[dict[str, Any]]:
    """The table's columns, without those that this comparison has nothing for."""
    absent = set() if comparison.scores is not None else {"before", "after"}
    return [each for each in COLUMNS if each["field"] not in absent]


def extra_of(value: Any, noise: str, live: bool = False) -> list[Any]:
    """What stands above the details: the noise switch, and the objects' curves."""
    comparison = comparison_of(value)
    judged = "off" if marked(comparison, NOISE.get(noise))[0].changes is None else "on"
    found: list[Any] = [dcc.Store(id="now", data={"noise": judged}), *changed(value, live)]
    if comparison.changes is not None and not live:
        found.append(
            dcc.Checklist(
                id="noise",
                value=["on"] if judged == "on" else [],
                options=[{"label": "mark what cannot be told from noise", "value": "on"}],
                className="choices",
            )
        )
    followed = getattr(value, "followed", None)
    if followed is not None:
        figure = small(followed_figure(value))
        first, second = value.objects
        found.append(
            html.Details(
                [
                    html.Summary(f"{first.capitalize()} and {second} by layer"),
                    html.P(
                        [
                            parts.edge_sample(theme.EdgeStyle(theme.SERIES[1], None, "")),
                            f"{first} ",
                            parts.edge_sample(theme.EdgeStyle(theme.SERIES[0], None, "")),
                            f"{second}; dashed before, solid after",
                        ],
                        className="hint legend",
                    ),
                    parts.graph(
                        "followed",
                        "rank and probability of both objects by layer",
                        figure,
                        height="180px",
                    ),
                ],
                open=True,
            )
        )
    return found


def changed(value: Any, live: bool = False) -> list[Any]:
    """What the edit changed: the answers before and after, the undo test, the switched heads."""
    followed = getattr(value, "followed", None)
    if followed is None:
        return []
    old, new = value.logit_differences
    rows: list[tuple[str, Any]] = []
    if "last" in followed.places and not live:
        ends = followed.probability[:, :, -1, followed.places.index("last")].mean(1)
        for column, label in enumerate(value.objects):
            both = ends[:, column].tolist()
            rows.append((f"p of the {label}", _arrow(*both, digits=3)))
    over = " over ".join(value.objects)
    rows.append((f"{over}, logits", _arrow(old, new, digits=2, sign="+")))
    restored = value.restoration
    if restored is not None and restored.n_edges:
        told = restored.as_dict()
        undo = [told.get(name) for name in ("recovered", "random_recovered")]
        said = ["undefined" if part is None else f"{part:.0%}" for part in undo]
        beside = f"; as many random edges {said[1]}" if len(restored.random) else ""
        rows.append(
            (
                "undo test",
                f"old values on {restored.n_edges:,} changed edges undo {said[0]}{beside}",
            )
        )
    switched = [head.name for head in value.switched]
    said_heads = ", ".join(switched) or "none of those looked at"
    rows.append(("heads that switched sides", said_heads))
    table = heads_table(value)
    heads = html.Details([html.Summary(f"Heads: {len(value.heads)} that moved most"), table])
    found = [parts.heading("What changed"), parts.pairs(rows), heads if table else None]
    edit = value.provenance.get("edit")
    told = edit.get(JUDGED) if isinstance(edit, Mapping) else None
    measures, _ = measures_of(told.get("success") if isinstance(told, Mapping) else None)
    if measures:
        success = parts.small_table(("", *SCORINGS), measures)
        found.append(html.Details([html.Summary("How well the edit worked"), success]))
    return found


def _arrow(before: float, after: float, digits: int, sign: str = "") -> str:
    return " → ".join(f"{value + 0.0:{sign}.{digits}f}" for value in (before, after))


def small(figure: go.Figure) -> go.Figure:
    """Two curves' panels in the width of a column: short titles, the axes speak for themselves."""
    figure.update_layout(
        height=180,
        margin={"l": 38, "r": 6, "t": 22, "b": 24},
        showlegend=False,
        xaxis={"title": None},
        xaxis2={"title": None, "domain": [0.58, 1]},
    )
    for note, text in zip(figure.layout.annotations, ("rank by layer", "probability"), strict=True):
        note.update(text=text, font={"size": 11})
    figure.layout.annotations[1].x = 0.58
    figure.update_traces(marker={"size": 5}, line={"width": 1.6})
    return figure


def _subtitle(comparison: Comparison) -> str:
    counts = [
        f"{int(getattr(comparison, name).sum())} {name}" for name in ("kept", "gained", "lost")
    ]
    if comparison.flipped is not None:
        counts.append(f"{int(comparison.flipped.sum())} flipped")
    return "  ·  ".join([", ".join(counts), f"Jaccard {comparison.jaccard:.2f}"])


def _facts(comparison: Comparison, value: Any) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        ("edges before", f"{comparison.before.n_edges:,}"),
        ("edges after", f"{comparison.after.n_edges:,}"),
        ("Jaccard, edges", f"{comparison.jaccard:.3f}"),
        ("Jaccard, nodes", f"{comparison.node_jaccard:.3f}"),
    ]
    if comparison.rediscovery is not None:
        rows.append(("two discoveries of the model before", str(comparison.rediscovery.floor)))
    if comparison.correlation is not None:
        rows.append(("rank correlation of scores", f"{comparison.correlation.spearman:.3f}"))
    if comparison.dissimilarity is not None:
        rows.append(("score mass moved", f"{comparison.dissimilarity:.3f} of both sides'"))
    if comparison.changes is not None:
        counts = comparison.changes.counts()
        rows.append(("against the noise", ", ".join(f"{n:,} {key}" for key, n in counts.items())))
    moved = sorted(comparison.by_layer(), key=lambda mass: -mass.moved)[:3]
    if moved:
        named = [f"{mass.group} ({mass.share:.0%})" for mass in moved]
        rows.append(("most mass moved in layers", ", ".join(named)))
    return rows
