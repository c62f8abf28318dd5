"""Names of what collapsed groups put into a picture: a box for nodes, a line for many edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.model.wiring import Wiring, node_kind, node_layer
from viz.groups import GROUPED, LONGEST_NAME, Groups
from viz.layout import Layout

PREFIX = "group "
"""What the name of a box begins with; no node's name holds a space."""


def groups_of(told: Sequence[Sequence[Any]], wiring: Wiring) -> Groups:
    """Groups as a link or a page tells them, without what no box can hold.

    Those are nodes that the model does not have or that are neither head nor MLP. A node that is in
    several groups stands in the box of the first.
    """
    known, taken = set(wiring.src_names), set[str]()
    found: dict[str, tuple[str, ...]] = {}
    for name, listed in told:
        members = [
            node
            for node in dict.fromkeys(map(str, listed))
            if node in known and node_kind(node) in GROUPED and node not in taken
        ]
        taken.update(members)
        title = str(name)[:LONGEST_NAME]
        if members and title not in found:
            found[title] = tuple(members)
    return found


def box_names(layout: Layout) -> dict[str, str]:
    """By the node in whose place it stands, the name of each box: that of its group.

    A group that no single box can hold (`viz.groups`) has several, which are counted; a node that
    is alone in its box stays what it is.
    """
    counts: dict[str, int] = {}
    found: dict[str, str] = {}
    for node, box in layout.boxes.items():
        if len(box.members) == 1:
            continue
        counts[box.name] = counts.get(box.name, 0) + 1
        nth = f" ({counts[box.name]})" if counts[box.name] > 1 else ""
        shown = box.name.replace("->", "→")  # what holds an arrow is an edge
        found[node] = f"{PREFIX}{shown}{nth}"
    return found


def in_pieces(groups: Groups, layout: Layout) -> list[str]:
    """A line for each group that is not drawn as one box, and why."""
    said = []
    for name, nodes in groups.items():
        sizes = [len(box.members) for box in layout.boxes.values() if box.name == name]
        if not sizes:
            said.append(f"{name}: none of its nodes is drawn.")
        elif len(nodes) == 1 or sum(sizes) == 1:
            said.append(f"{name}: one node alone is no box.")
        elif len(sizes) > 1:
            alone, boxes = sizes.count(1), len(sizes) - sizes.count(1)
            pieces = [f"{boxes} box{'es' * (boxes != 1)}"] * bool(boxes)
            pieces += [f"{alone} single node{'s' * (alone != 1)}"] * bool(alone)
            drawn = " and ".join(pieces)
            said.append(f"{name}: {drawn}, for paths leave the group and enter it again.")
    return said


def line_names(wiring: Wiring, layout: Layout) -> list[str]:
    """What each line is called: its edge, or the ends of those that it stands for."""
    boxes = box_names(layout)
    names = []
    for edge, tail, head in zip(
        layout.edges.tolist(), layout.tail.tolist(), layout.head.tolist(), strict=True
    ):
        source, arrow, target = wiring.edge_name(edge).partition("->")
        if (box := boxes.get(layout.nodes[head])) is not None:
            reader = wiring.dst_nodes[wiring.edge_dst[edge]]
            target = box + target[len(reader) :]  # what follows says the input and the span
        names.append(boxes.get(layout.nodes[tail], source) + arrow + target)
    return names


def told_apart(names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Names of lines; lines between the same boxes that differ in class say theirs."""
    counts = Counter(names)
    return tuple(
        name if counts[name] == 1 else f"{name} {kind}"
        for name, kind in zip(names, classes, strict=True)
    )


def box_records(layout: Layout, roles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What the browser is told of each box, by its place among the nodes: who is in it."""
    found, names = {}, box_names(layout)
    for place, node in enumerate(layout.nodes):
        if node in names:
            box = layout.boxes[node]
            found[str(place)] = {
                "name": box.name,
                "members": list(box.members),
                "roles": [roles.get(each, "") for each in box.members],
                "kinds": [node_kind(each) for each in box.members],
                "layers": [node_layer(each) for each in box.members],
            }
    return found


def bundle_records(wiring: Wiring, layout: Layout) -> dict[int, list[str]]:
    """The edges of each line that stands for other edges than it is named after."""
    return {
        place: [wiring.edge_name(edge) for edge in bundle]
        for place, (name, bundle) in enumerate(
            zip(line_names(wiring, layout), layout.bundles, strict=True)
        )
        if name != wiring.edge_name(bundle[0]) or len(bundle) > 1
    }


def bundled(name: str, bundle: np.ndarray) -> str:
    """A line's heading: its name, and how many edges it stands for where these are several."""
    return name if len(bundle) == 1 else f"{name}: {len(bundle):,} edges, summed"
