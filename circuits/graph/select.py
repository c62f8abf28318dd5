"""From edge scores to a circuit: selection, and pruning to what is connected.

Selection picks edges by score; its n counts edges *before* pruning, as in EAP-IG. Pruning then
removes what cannot carry information from `input` to `logits`, so that a circuit usually holds
fewer than n edges; `select` does both and records both numbers in the circuit's provenance.
Equal scores are taken in canonical edge order, so that a selection is a function of its scores.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from circuits.base.choices import Ranking, Selection
from circuits.base.errors import NumericalError, OptionError
from circuits.graph.circuit import Circuit, EdgeScores, Wiring


def top_n(scores: EdgeScores, n: int, by: Ranking | str = Ranking.ABSOLUTE) -> Circuit:
    """The n best edges, unpruned; signed ranking takes negative ones where n asks for so many."""
    keys = _keys(scores, by)
    _check_count(n, scores.wiring)
    cut = np.partition(keys, keys.size - n)[keys.size - n]
    kept = keys > cut
    kept[np.flatnonzero(keys == cut)[: n - int(kept.sum())]] = True
    return Circuit(scores.wiring, kept, scores, provenance=scores.provenance)


def threshold(scores: EdgeScores, t: float, by: Ranking | str = Ranking.ABSOLUTE) -> Circuit:
    """Edges whose (absolute) score is at least t, unpruned; t is in units of the metric."""
    if not math.isfinite(t) or (t < 0 and Ranking.of(by) == Ranking.ABSOLUTE):
        raise OptionError(f"the threshold must be a number of at least 0, not {t}")
    kept = _keys(scores, by) >= t
    return Circuit(scores.wiring, kept, scores, provenance=scores.provenance)


def greedy(scores: EdgeScores, n: int, by: Ranking | str = Ranking.ABSOLUTE) -> Circuit:
    """The n edges found from the logits backwards, unpruned.

    Each step adds the best edge among those whose destination is connected to the logits already;
    its source's inputs then become available (EAP-IG, Hanna et al. 2024). Every kept edge reaches
    the logits; that it can be reached from the input takes pruning.
    """
    wiring, keys = scores.wiring, _keys(scores, by)
    _check_count(n, wiring)
    first, inputs_of = _first_edges(wiring), inputs_of_sources(wiring)

    def best_first(dst: int) -> Iterator[tuple[float, int, int]]:
        segment = -keys[first[dst] : first[dst + 1]]
        order = np.argsort(segment, kind="stable")
        return zip(segment[order].tolist(), (order + first[dst]).tolist(), repeat(dst))

    # One entry a connected destination: its best edge that is not kept yet.
    queues = {wiring.logits_dst: best_first(wiring.logits_dst)}
    heap = [next(queues[wiring.logits_dst])]
    kept = np.zeros(wiring.n_edges, dtype=bool)
    for _ in range(n):
        _, edge, dst = heapq.heappop(heap)
        kept[edge] = True
        for new in inputs_of[edge - first[dst]]:
            if new not in queues:
                queues[new] = best_first(new)
                heapq.heappush(heap, next(queues[new]))
        following = next(queues[dst], None)
        if following is not None:
            heapq.heappush(heap, following)
    return Circuit(wiring, kept, scores, provenance=scores.provenance)


def prune(circuit: Circuit) -> Circuit:
    """Keep the edges that lie on a path of kept edges from `input` to `logits`.

    A head is reached where any of its query, key or value inputs is; a shared key or value belongs
    to every query head of its group. One forward and one backward sweep over the layers reach the
    fixpoint: every edge of a path from `input` to `logits` lies on that same path, so removing the
    other edges removes no path, and a second pruning finds nothing to do.
    """
    reached, needed = _connected(circuit.wiring, circuit.kept)
    wiring = circuit.wiring
    kept = circuit.kept & reached[wiring.edge_src] & needed[wiring.edge_dst]
    return replace(circuit, kept=kept)


def select(
    scores: EdgeScores,
    selection: Selection | str,
    n: int | None = None,
    t: float | None = None,
    by: Ranking | str = Ranking.ABSOLUTE,
) -> Circuit:
    """Select, prune, and record both sizes under `provenance["selection"]`.

    TOP and GREEDY take `n` (edges before pruning), THRESHOLD takes `t`.
    """
    selection, by = Selection.of(selection), Ranking.of(by)
    name, limit = ("threshold", t) if selection == Selection.THRESHOLD else ("n", n)
    if limit is None:
        wanted = {"threshold": "a threshold", "n": "a number of edges"}[name]
        raise OptionError(f"selection {selection.value!r} needs {wanted}")
    chosen = _SELECTIONS[selection](scores, limit, by)
    pruned = prune(chosen)
    record: dict[str, Any] = {
        "selection": selection.value,
        "ranking": by.value,
        "edges_selected": chosen.n_edges,
        "edges_after_pruning": pruned.n_edges,
    }
    record[name] = limit
    return replace(pruned, provenance={**pruned.provenance, "selection": record})


_SELECTIONS: dict[Selection, Callable[..., Circuit]] = {
    Selection.TOP: top_n,
    Selection.GREEDY: greedy,
    Selection.THRESHOLD: threshold,
}


def random_circuit(wiring: Wiring, n: int, rng: np.random.Generator) -> Circuit:
    """A random circuit of exactly n edges, none dangling: the baseline for a pruned circuit.

    Edges come in random order; the longest beginning whose pruned circuit has at most n edges is
    taken, and random edges between that circuit's own nodes make up the difference. (n edges drawn
    blindly would lose most of themselves to pruning and be no fair opponent.)
    """
    _check_count(n, wiring)
    order = rng.permutation(wiring.n_edges)

    def beginning(length: int) -> Bool[np.ndarray, " edge"]:
        kept = np.zeros(wiring.n_edges, dtype=bool)
        kept[order[:length]] = True
        return prune(Circuit(wiring, kept)).kept

    low, high = n, wiring.n_edges  # sizes of beginnings grow with their length
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if beginning(middle).sum() <= n else (low, middle - 1)
    kept = beginning(low).copy()
    while missing := n - int(kept.sum()):
        reached, needed = _connected(wiring, kept)
        inside = np.flatnonzero(reached[wiring.edge_src] & needed[wiring.edge_dst] & ~kept)
        if inside.size:
            kept[rng.choice(inside, size=min(missing, inside.size), replace=False)] = True
        else:
            _add_detour(wiring, kept, needed, missing, rng)
    return Circuit(wiring, kept)


def _add_detour(
    wiring: Wiring,
    kept: Bool[np.ndarray, " edge"],
    needed: Bool[np.ndarray, " dst"],
    missing: int,
    rng: np.random.Generator,
) -> None:
    """Two edges through a node that is not in the circuit yet, whose own nodes have all edges.

    Where one edge is missing, input->logits makes room: every node of a circuit that has all its
    edges is connected to both ends without it.
    """
    inputs_of = inputs_of_sources(wiring)
    new = [src for src in range(1, wiring.n_src) if not needed[inputs_of[src][0]]]
    src = int(rng.choice(new))
    slots = [dst for dst in inputs_of[src] if not needed[dst]]
    first = _first_edges(wiring)
    kept[first[int(rng.choice(slots))]] = True
    kept[first[wiring.logits_dst] + src] = True
    if missing == 1:
        kept[first[wiring.logits_dst]] = False


def _connected(
    wiring: Wiring, kept: Bool[np.ndarray, " edge"]
) -> tuple[Bool[np.ndarray, " src"], Bool[np.ndarray, " dst"]]:
    """Sources that `input` reaches, and destinations that reach `logits`, over kept edges."""
    matrix = wiring.to_matrix(kept, fill=False)
    reached = np.zeros(wiring.n_src, dtype=bool)
    reached[0] = True
    for layer, attn, heads, mlp in _layers(wiring):
        earlier = reached[: heads.start]
        read = np.logical_or.reduce(matrix[: heads.start, attn][earlier])
        queries, shared = np.split(read, [wiring.n_heads])
        keys_values = np.logical_or(*shared.reshape(2, -1)).repeat(wiring.queries_per_key)
        reached[heads] = np.stack([queries, keys_values]).any(axis=0)
        reached[mlp] = np.any(reached[:mlp] & matrix[:mlp, wiring.mlp_dst(layer)])
    needed = np.zeros(wiring.n_dst, dtype=bool)
    needed[wiring.logits_dst] = True
    for layer, attn, heads, mlp in reversed(list(_layers(wiring))):
        later = slice(wiring.mlp_dst(layer), None)
        needed[later.start] = matrix[mlp, later][needed[later]].any()
        live = matrix[heads, later][:, needed[later]].any(axis=1)
        groups = live.reshape(wiring.n_key_inputs, -1).any(axis=1)
        needed[attn] = np.concatenate([live, groups, groups])
    return reached, needed


def _layers(wiring: Wiring) -> Iterator[tuple[int, slice, slice, int]]:
    """Each layer's number, attention destinations, head sources and MLP source."""
    for layer in range(wiring.n_layers):
        start, src = wiring.attn_dst(layer), wiring.head_src(layer)
        attn = slice(start, start + wiring.n_attn)
        yield layer, attn, slice(src, src + wiring.n_heads), wiring.mlp_src(layer)


def _first_edges(wiring: Wiring) -> list[int]:
    """Index of each destination's first edge, which comes from `input`; then the edge count."""
    return [0, *np.cumsum(wiring.n_sources_of_dst).tolist()]


@lru_cache(maxsize=8)
def inputs_of_sources(wiring: Wiring) -> list[tuple[int, ...]]:
    """Destinations of each source's node: none for `input`, three for a head, one for an MLP.

    A shared key or value is listed with every head of its group.
    """
    inputs: list[tuple[int, ...]] = [()]
    for layer in range(wiring.n_layers):
        start = wiring.attn_dst(layer)
        for head in range(wiring.n_heads):
            key = start + wiring.n_heads + head // wiring.queries_per_key
            inputs.append((start + head, key, key + wiring.n_key_inputs))
        inputs.append((wiring.mlp_dst(layer),))
    return inputs


def _keys(scores: EdgeScores, by: Ranking | str) -> Float[np.ndarray, " edge"]:
    bad = np.flatnonzero(~np.isfinite(scores.values))
    if bad.size:
        raise NumericalError(
            f"the score of edge {scores.wiring.edge_name(int(bad[0]))} is NaN or infinite, "
            "so edges cannot be ranked"
        )
    values = scores.values
    return {Ranking.ABSOLUTE: np.abs(values), Ranking.SIGNED: values}[Ranking.of(by)]


def _check_count(n: int, wiring: Wiring) -> None:
    if not 1 <= n <= wiring.n_edges:
        raise OptionError(
            f"the number of edges must lie between 1 and {wiring.n_edges} "
            f"(all edges of {wiring.describe()}), not {n}"
        )
