"""Which edges of a circuit a picture shows: the strongest on paths from input to logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.model.wiring import Wiring, node_kind, node_layer

FEW = 60
"""Edges of a picture where nobody says how many: few enough to follow each of them."""
PORTS = {"q": -0.18, "k": 0.0, "v": 0.18, "": 0.0}


@dataclass(frozen=True, eq=False)
class Nodes:
    """Every node that a wiring's picture can have: sources, shared key-value heads, logits."""

    names: tuple[str, ...]
    kinds: np.ndarray
    layer: Int[np.ndarray, " node"]
    index: Int[np.ndarray, " node"]
    of_src: Int[np.ndarray, " src"]
    of_dst: Int[np.ndarray, " dst"]
    port: Float[np.ndarray, " dst"]
    served: Int[np.ndarray, "pair 2"]


@cache
def nodes_of(wiring: Wiring) -> Nodes:
    """The nodes, in the order of sources, then shared heads, then the logits."""
    names = list(wiring.src_names)
    served: list[tuple[int, int]] = []
    if wiring.is_grouped:
        size = wiring.queries_per_key
        for layer in range(wiring.n_layers):
            for group in range(wiring.n_kv_heads):
                first = wiring.head_src(layer, group * size)
                served += [(len(names), head) for head in range(first, first + size)]
                names.append(f"a{layer}.kv{group}")
    names.append("logits")
    ids = {name: index for index, name in enumerate(names)}
    within = [int(name.partition(".")[2].lstrip("khv") or 0) for name in names]
    return Nodes(
        tuple(names),
        np.array([node_kind(name) for name in names]),
        np.array([-1 if node_layer(name) is None else node_layer(name) for name in names]),
        np.array(within),
        np.arange(wiring.n_src),
        np.array([ids[name] for name in wiring.dst_nodes]),
        np.array([PORTS[slot] for slot in wiring.dst_slots]),
        np.array(served, dtype=np.int64).reshape(-1, 2),
    )


def _reach(start: int, tail: np.ndarray, head: np.ndarray, n_nodes: int) -> np.ndarray:
    reached = np.zeros(n_nodes, dtype=bool)
    reached[start] = True
    while True:
        before = int(reached.sum())
        reached[head[reached[tail]]] = True
        if int(reached.sum()) == before:
            return reached


def on_paths(wiring: Wiring, edges: Int[np.ndarray, " edge"]) -> Bool[np.ndarray, " edge"]:
    """Which edges lie on a path from input to logits."""
    nodes = nodes_of(wiring)
    tail, head = nodes.of_src[wiring.edge_src[edges]], nodes.of_dst[wiring.edge_dst[edges]]
    all_tails = np.concatenate([tail, nodes.served[:, 0]])
    all_heads = np.concatenate([head, nodes.served[:, 1]])
    n_nodes = len(nodes.names)
    from_input = _reach(0, all_tails, all_heads, n_nodes)
    to_logits = _reach(n_nodes - 1, all_heads, all_tails, n_nodes)
    return from_input[tail] & to_logits[head]


def strongest(circuit: Circuit, max_edges: int = FEW) -> Circuit:
    """The strongest kept edges by |score| that lie on paths, at most `max_edges` of them.

    Edges are taken in order of |score| for as long as at most `max_edges` of those taken lie on
    a path from input to logits among themselves; the others are left out. Where the next edge
    would connect too many at once, it is taken with the strongest of those. Where no path is
    found (the difference of two circuits has few) the strongest edges stay as they are.
    Equal scores count as stronger nearer to the logits. OptionError: `max_edges` below 1.
    """
    if max_edges < 1:
        raise OptionError(f"at least one edge must be drawn, not {max_edges}")
    ranked = np.flatnonzero(circuit.kept)[::-1]
    if circuit.scores is not None:
        ranked = ranked[np.argsort(-np.abs(circuit.scores.values[ranked]), kind="stable")]
    strong = ranked
    chosen, taken = _most_on_paths(circuit.wiring, ranked, max_edges)
    while taken < len(ranked):
        joined = ranked[: taken + 1]
        joined = joined[on_paths(circuit.wiring, joined)]
        bridge = ranked[taken : taken + 1]
        rest = joined[~np.isin(joined, np.concatenate([chosen, bridge]))]
        ranked = np.concatenate([chosen, bridge, rest])
        more, taken = _most_on_paths(circuit.wiring, ranked, max_edges)
        if len(more) <= len(chosen):
            break
        chosen = more
    mask = np.zeros_like(circuit.kept)
    mask[chosen if len(chosen) else strong[:max_edges]] = True
    return circuit.keeping(mask)


def _most_on_paths(wiring: Wiring, ranked: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """At most `limit` edges on paths among the longest prefix of a ranking, and its length."""

    def of_first(taken: int) -> np.ndarray:
        return ranked[:taken][on_paths(wiring, ranked[:taken])]

    low = high = min(limit, len(ranked))
    while high < len(ranked) and len(of_first(high)) <= limit:
        low, high = high, min(2 * high, len(ranked))
    if len(of_first(high)) <= limit:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(of_first(middle)) <= limit else (low, middle)
    return of_first(low), low
