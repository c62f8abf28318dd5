"""A scene as a plotly figure, whole or with some of its edges, and as JSON for the browser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from circuits.model.wiring import node_kind, node_layer
from viz import theme
from viz.layout import Layout
from viz.routing import HALF_HEIGHT, HALF_WIDTH
from viz.screen.boxes import box_records
from viz.screen.scene import Scene
from viz.screen.style import FONT, dash, new_figure, plain, rgb

COMFORTABLE = 46
"""Pixels for one unit of the layout's height where nothing else decides."""
MOST_NAMED = 12
"""Members of a box that a hover label lists."""
SAME = 2e-3
"""Distances in the layout below which nobody sees a difference."""


def figure_of(scene: Scene, visible: Bool[np.ndarray, " edge"] | None = None) -> go.Figure:
    """The figure with these edges (all by default) and the nodes that they touch."""
    shown = np.ones(scene.n_lines, dtype=bool) if visible is None else visible
    figure, layout = base_figure(scene), scene.layout
    nodes = layout.nodes
    touched = np.zeros(len(nodes), dtype=bool)
    touched[[nodes.index("input"), nodes.index("logits")]] = True
    touched[layout.tail[shown]] = touched[layout.head[shown]] = True
    drawn = np.flatnonzero(touched).tolist()
    boxes, labels = _boxes(layout), _labels(scene)
    for trace in figure.data:
        part, key = trace.meta["part"], trace.meta["key"]
        if part == "boxes":
            chosen = [boxes[i] for i in drawn if scene.style_key(nodes[i]) == key]
            trace.x, trace.y = _joined(np.array(chosen).reshape(-1, 17, 2))
        elif part == "labels":
            members = [i for i in drawn if scene.looks_of(nodes[i]).text == key]
            trace.x, trace.y = layout.x[members], layout.y[members]
            trace.text = [labels[i] for i in members]
        elif part == "nodes":
            trace.x, trace.y = layout.x[drawn], layout.y[drawn]
            trace.customdata = [scene.nodes[i] for i in drawn]
            trace.text = [_node_title(scene, nodes[i]) for i in drawn]
        elif part == "handles":
            edges, points = np.flatnonzero(shown), scene.handles()[shown]
            trace.x, trace.y = _joined(points)
            count = points.shape[1] + 1
            trace.customdata = [scene.names[e] for e in edges for _ in range(count)]
            trace.text = [scene.titles[e] for e in edges for _ in range(count)]
    paths = _paths(layout.curves)
    lines = []
    if layout.shared:
        ends = [bool(touched[[nodes.index(node) for node in pair]].all()) for pair in layout.shared]
        kept = [path for path, on in zip(_paths(layout.shared_curves), ends, strict=True) if on]
        lines.append({**_shared_line(), "path": "".join(kept)})
    for index in range(len(scene.groups)):
        inside = np.flatnonzero(shown & (scene.group_of == index))
        lines.append({**_line(scene, index), "path": "".join(paths[e] for e in inside)})
    figure.update_layout(shapes=_stripes(layout) + [line for line in lines if line["path"]])
    return figure


def as_dict(scene: Scene) -> dict[str, Any]:
    """Plain JSON values for the browser: the figure without edges and nodes, and these."""
    layout = scene.layout
    handles = scene.handles()
    return {
        "figure": base_figure(scene).to_plotly_json(),
        "lines": [_line(scene, index) for index in range(len(scene.groups))],
        "stripes": _stripes(layout),
        "edges": {
            "path": _paths(layout.curves),
            "x": _rounded(handles[..., 0]),
            "y": _rounded(handles[..., 1]),
            "group": scene.group_of.tolist(),
            "order": scene.order.tolist(),
            "size": [float(f"{size:.6g}") for size in scene.size],
            "tail": layout.tail.tolist(),
            "head": layout.head.tolist(),
            "name": list(scene.names),
            "title": list(scene.titles),
            "class": list(scene.classes),
        },
        "shared": {
            "line": _shared_line(),
            "path": _paths(layout.shared_curves),
            "ends": [[layout.nodes.index(node) for node in pair] for pair in layout.shared],
        },
        "nodes": {
            "name": list(scene.nodes),
            "x": _rounded(layout.x),
            "y": _rounded(layout.y),
            "label": _labels(scene),
            "layer": [node_layer(node) for node in layout.nodes],
            "kind": [node_kind(node) for node in layout.nodes],
            "role": [scene.roles.get(node, "") for node in layout.nodes],
            "box": [_rounded(box) for box in _boxes(layout)],
            "style": [scene.style_key(node) for node in layout.nodes],
            "text": [scene.looks_of(node).text for node in layout.nodes],
            "title": [_node_title(scene, node) for node in layout.nodes],
        },
        "boxes": box_records(layout, scene.roles),
        "bundles": {str(place): list(names) for place, names in scene.bundles.items()},
    }


def base_figure(scene: Scene) -> go.Figure:
    """The figure with empty traces, in order of drawing, each saying what belongs in it.

    Edges are no traces but shapes below them: curves of many edges are then one path, and showing
    others costs the browser next to nothing.
    """
    layout = scene.layout
    left, right, low, high = layout.bounds
    figure = new_figure(
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=False,
        dragmode="pan",
        height=round(max(420, COMFORTABLE * (high - low) + 16)),
        xaxis=_hidden_axis(left - 0.62, right + 0.1),
        yaxis=_hidden_axis(low - 0.12, high + 0.12),
        annotations=_layer_labels(layout),
    )
    for key in dict.fromkeys(scene.style_key(node) for node in layout.nodes):
        style = next(scene.looks_of(n) for n in layout.nodes if scene.style_key(n) == key)
        figure.add_scatter(
            x=[],
            y=[],
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            fill="toself",
            fillcolor=style.fill,
            # Corners are nearer to each other than what plotly takes for one point.
            line={"color": style.line, "width": 1.2, "simplify": False},
            meta={"part": "boxes", "key": key},
        )
    size = 11 if layout.n_columns <= 11 else 10
    for colour in dict.fromkeys(scene.looks_of(node).text for node in layout.nodes):
        figure.add_scatter(
            x=[],
            y=[],
            text=[],
            mode="text",
            textfont={"color": colour, "size": size, "family": FONT},
            hoverinfo="skip",
            showlegend=False,
            meta={"part": "labels", "key": colour},
        )
    target: dict[str, Any] = {"showlegend": False, "x": [], "y": [], "text": [], "customdata": []}
    target["hovertemplate"] = "%{text}<extra></extra>"
    # An unseen line is hovered at its points, and costs the browser one path and no markers.
    figure.add_scatter(
        **target,
        mode="lines",
        line={"color": "rgba(0,0,0,0)", "width": 1},
        meta={"part": "handles", "key": 0},
    )
    figure.add_scatter(
        **target,
        mode="markers",
        marker={"opacity": 0, "color": theme.MUTED, "size": 26},
        meta={"part": "nodes", "key": 0},
    )
    return figure


def _line(scene: Scene, index: int) -> dict[str, Any]:
    """How a group's line looks, as a shape without its path."""
    group = scene.groups[index]
    look = {
        "color": rgb(group.style.colour, group.strength),
        "width": group.width,
        "dash": dash(group.style, group.width),
    }
    return {"type": "path", "layer": "below", "name": f"edges {index}", "line": look}


def _shared_line() -> dict[str, Any]:
    look = {"color": theme.SHARED.colour, "width": 1.4, "dash": dash(theme.SHARED, 1.4)}
    return {"type": "path", "layer": "below", "name": "shared", "line": look}


def _paths(curves: Float[np.ndarray, "edge 10 2"]) -> list[str]:
    """Each curve as a path in the picture's coordinates, in as few pieces as say the same.

    Three cubic pieces that are one cubic become one, and an upright piece becomes a line.
    """
    whole = np.stack(
        [
            curves[:, 0],
            curves[:, 0] + 3 * (curves[:, 1] - curves[:, 0]),
            curves[:, 9] + 3 * (curves[:, 8] - curves[:, 9]),
            curves[:, 9],
        ],
        axis=1,
    )
    off = np.zeros(len(curves))
    for place, t in ((3, 1 / 3), (6, 2 / 3)):
        weights = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
        at = np.einsum("i,eid->ed", weights, whole)
        off = np.maximum(off, np.abs(at - curves[:, place]).max(axis=1))
    paths = []
    for alone, single, points in zip(off < SAME, whole, curves, strict=True):
        pieces = [single] if alone else [points[start : start + 4] for start in (0, 3, 6)]
        paths.append(f"M{_point(pieces[0][0])}{''.join(map(_piece, pieces))}")
    return paths


def _piece(points: Float[np.ndarray, "4 2"]) -> str:
    if np.ptp(points[:, 0]) < SAME:
        return f"L{_point(points[3])}"
    return f"C{' '.join(map(_point, points[1:]))}"


def _point(point: Float[np.ndarray, " 2"]) -> str:
    x, y = point.tolist()
    return f"{round(x, 3):g},{round(y, 3):g}"


def _hidden_axis(low: float, high: float) -> dict[str, Any]:
    return {
        "range": [round(low, 3), round(high, 3)],
        "visible": False,
        "fixedrange": False,
    }


def _stripes(layout: Layout) -> list[dict[str, Any]]:
    left, right, _, _ = layout.bounds
    return [
        {
            "type": "rect",
            "layer": "below",
            "x0": left,
            "x1": right,
            "y0": row.low,
            "y1": row.high,
            "fillcolor": theme.STRIPE,
            "line": {"width": 0},
        }
        for row in layout.rows[::2]
    ]


def _layer_labels(layout: Layout) -> list[dict[str, Any]]:
    texts = [(f"{row.layer}", (row.low + row.high) / 2) for row in layout.rows]
    if layout.rows:
        texts.append(("layer", float(layout.y[layout.nodes.index("input")])))
    return [
        {
            "x": layout.bounds[0] - 0.12,
            "y": y,
            "text": text,
            "showarrow": False,
            "xanchor": "right",
            "font": {"size": 11, "color": theme.MUTED},
        }
        for text, y in texts
    ]


def _node_title(scene: Scene, node: str) -> str:
    if node in scene.boxes:
        members = scene.layout.boxes[node].members
        listed = ", ".join(members[:MOST_NAMED]) + (" …" if len(members) > MOST_NAMED else "")
        return f"<b>{plain(scene.boxes[node])}</b>  {len(members)} nodes<br>{plain(listed)}"
    role = scene.roles.get(node, "")
    what = theme.ROLES[role].legend if role in theme.ROLES else theme.KINDS[node_kind(node)].legend
    return f"<b>{plain(node)}</b>  {plain(what)}"


def _labels(scene: Scene) -> list[str]:
    """Names in the boxes; the row says the layer, and many columns leave room for the rest only."""
    layout = scene.layout
    short = layout.n_columns > 13
    names = []
    for node in layout.nodes:
        within = node.partition(".")[2]
        if node in scene.boxes:  # its name stands above it
            names.append(f"×{len(layout.boxes[node].members)}")
        else:
            names.append(within if short and within else node)
    return names


def _boxes(layout: Layout) -> list[np.ndarray]:
    """Each node's box with round corners, as a closed line of 17 points; MLPs' are square."""
    return [
        _box(x, y, half, node_kind(node) in ("mlp", "kv"))
        for node, x, y, half in zip(
            layout.nodes,
            layout.x.tolist(),
            layout.y.tolist(),
            layout.half_width.tolist(),
            strict=True,
        )
    ]


def _box(x: float, y: float, half: float, square: bool) -> Float[np.ndarray, "17 2"]:
    across, up = (0.03, 0.04) if square else (0.11, 0.1)
    width = max(half - 0.02, HALF_WIDTH * 0.9)
    corners = ((1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270))
    points = []
    for right, top, start in corners:
        for step in range(4):
            angle = math.radians(start + 30 * step)
            points.append(
                (
                    x + right * (width - across) + across * math.cos(angle),
                    y + top * (HALF_HEIGHT - up) + up * math.sin(angle),
                )
            )
    return np.array([*points, points[0]])


def _joined(curves: Float[np.ndarray, "curve points 2"]) -> tuple[list[Any], list[Any]]:
    """Curves one after the other, with a gap after each."""
    x: list[Any] = []
    y: list[Any] = []
    for curve in curves:
        x += [*curve[:, 0].tolist(), None]
        y += [*curve[:, 1].tolist(), None]
    return x, y


def _rounded(values: np.ndarray) -> list[Any]:
    return np.round(np.asarray(values, dtype=float), 3).tolist()
