"""Named groups of nodes, each drawn as one box instead of its members.

Edges of a picture only rise. A group that some path leaves and enters again cannot stand at one
height; it becomes as few boxes as let every edge rise, from the lowest member up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from circuits.base.errors import OptionError
from circuits.model.wiring import Wiring, node_kind
from viz import theme

LONGEST_NAME = 40
GROUPED = ("head", "mlp")
"""Kinds of nodes that a group may have."""

Groups = Mapping[str, Sequence[str]]
"""Names of groups with the names of their nodes."""


@dataclass(frozen=True)
class Box:
    """One box of a group: `node` is the member in whose place it stands."""

    name: str
    node: str
    members: tuple[str, ...]

    def look(self, roles: Mapping[str, str]) -> theme.NodeStyle:
        """Its members' style where they share one."""
        styles = {theme.node_style(node_kind(each), roles.get(each, "")) for each in self.members}
        return styles.pop() if len(styles) == 1 else theme.GROUP


def parse_groups(told: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups as they are typed, `NAME=a6.h1,a6.h2`; OptionError for anything else."""
    found: dict[str, tuple[str, ...]] = {}
    for each in told:
        name, equals, listed = each.rpartition("=")
        name, nodes = name.strip(), tuple(node.strip() for node in listed.split(","))
        if not equals or not name or not all(nodes):
            raise OptionError(f"`group` {each!r} is not NAME=a6.h1,a6.h2")
        if name in found:
            raise OptionError(f"`group` {name!r} is named twice; list all its nodes at once")
        found[name] = nodes
    return found


def check_groups(groups: Groups, wiring: Wiring) -> None:
    """OptionError for a node that the model does not have or that is in two groups."""
    owner: dict[str, str] = {}
    for name, nodes in groups.items():
        if len(name) > LONGEST_NAME:
            raise OptionError(
                f"group {name[:20]!r}… has a name of more than {LONGEST_NAME} letters"
            )
        for node in nodes:
            if node not in wiring.src_names or node_kind(node) not in GROUPED:
                raise OptionError(
                    f"group {name!r}: {node!r} is no head or MLP of the circuit's model"
                )
            if owner.setdefault(node, name) != name:
                raise OptionError(f"{node} is in two groups, {owner[node]!r} and {name!r}")


def arrange(
    groups: Mapping[str, np.ndarray],
    order: Int[np.ndarray, " node"],
    tail: Int[np.ndarray, " edge"],
    head: Int[np.ndarray, " edge"],
) -> list[tuple[str, np.ndarray, int]]:
    """Boxes of groups: name, members and the member in whose place the box stands.

    `order` rises from input to logits along every edge, given by its two ends.
    """
    order = order.copy()
    boxes = []
    for name, nodes in groups.items():
        waiting = nodes[np.argsort(order[nodes], kind="stable")]
        while len(waiting):
            size, stand = len(waiting), int(waiting[0])
            while size > 1:
                place = _height(waiting[:size], order, tail, head)
                # Members at one height stay together: a box takes the place of all of them.
                if place is not None:
                    stand = place
                    break
                size -= 1
            members, waiting = waiting[:size], waiting[size:]
            order[members] = order[stand]
            boxes.append((name, members, stand))
    return boxes


def _height(
    members: np.ndarray, order: np.ndarray, tail: np.ndarray, head: np.ndarray
) -> int | None:
    """The highest member at whose height every edge into and out of the members rises."""
    inner_tail, inner_head = np.isin(tail, members), np.isin(head, members)
    below = order[tail[inner_head & ~inner_tail]].max(initial=-1)
    above = order[head[inner_tail & ~inner_head]].min(initial=np.iinfo(order.dtype).max)
    fits = members[(order[members] > below) & (order[members] < above)]
    return int(fits[-1]) if len(fits) else None
