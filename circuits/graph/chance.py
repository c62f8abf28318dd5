"""Chance for circuits: the same shape with other heads, and a path that is none of its own."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from circuits.graph.circuit import Circuit
from circuits.graph.select import inputs_of_sources
from circuits.model.wiring import Wiring

_TRIES = 1000


def same_shape(circuit: Circuit, rng: np.random.Generator) -> Circuit:
    """The circuit with the heads of each layer exchanged at random; scores are left behind.

    Every edge keeps its layers and its slot, so size, shape and connectedness stay. Heads that
    share a key stay together: groups change places, and heads within a group.
    """
    wiring = circuit.wiring
    src, dst = np.arange(wiring.n_src), np.arange(wiring.n_dst)
    size = wiring.queries_per_key
    for layer in range(wiring.n_layers):
        groups = rng.permutation(wiring.n_key_inputs)
        heads = np.concatenate([group * size + rng.permutation(size) for group in groups])
        start = wiring.head_src(layer)
        src[start : start + wiring.n_heads] = start + heads
        first = wiring.attn_dst(layer)
        keys = first + wiring.n_heads
        dst[first:keys] = first + heads
        dst[keys : keys + wiring.n_key_inputs] = keys + groups
        values = keys + wiring.n_key_inputs
        dst[values : values + wiring.n_key_inputs] = values + groups
    matrix = circuit.matrix()
    return Circuit(wiring, wiring.from_matrix(matrix[..., src, :][..., dst]))


def inflated(circuit: Circuit, rng: np.random.Generator) -> tuple[Circuit, int] | None:
    """The circuit with a random path from `input` to `logits` added, and one of the new edges.

    A path leaves each node by any of its edges alike (Shi et al. 2024). None where a thousand
    random paths bring nothing new.
    """
    wiring = circuit.wiring
    readers = _readers(wiring)
    for _ in range(_TRIES):
        path = _path(wiring, readers, rng)
        new = path[~circuit.kept[path]]
        if new.size:
            kept = circuit.kept.copy()
            kept[path] = True
            return Circuit(wiring, kept), int(rng.choice(new))
    return None


def without(circuit: Circuit, edge: int) -> Circuit:
    """The circuit less one edge."""
    kept = circuit.kept.copy()
    kept[edge] = False
    return circuit.keeping(kept)


def _readers(wiring: Wiring) -> list[list[tuple[int, int]]]:
    """By destination the sources that read it: a head, the heads of a group, an MLP; none.

    Destinations span by span; a source is its span and its number.
    """
    readers: list[list[tuple[int, int]]] = [[] for _ in range(wiring.n_spans * wiring.n_dst)]
    for place, inputs in enumerate(inputs_of_sources(wiring)):
        for dst in inputs:
            readers[dst].append(divmod(place, wiring.n_src))
    return readers


def _path(
    wiring: Wiring, readers: list[list[tuple[int, int]]], rng: np.random.Generator
) -> Int[np.ndarray, " edge"]:
    """Indices of the edges of a random path."""
    span, src, path = int(rng.integers(wiring.n_spans)), 0, list[int]()
    while True:
        ways = wiring.mask[src].copy()
        ways[wiring.logits_dst] &= span == wiring.last_span
        if not ways.any():  # nothing after the last layer reads other tokens than the last
            span, src, path = int(rng.integers(wiring.n_spans)), 0, []
            continue
        dst = int(rng.choice(np.flatnonzero(ways)))
        path.append(int(wiring.first_edge[span, dst] + src))
        if dst == wiring.logits_dst:
            return np.array(path)
        onward = readers[span * wiring.n_dst + dst]
        span, src = onward[int(rng.integers(len(onward)))]
