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
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring


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
    first, inputs_of = first_edges(wiring), inputs_of_sources(wiring)
    logits = logits_place(wiring)

    def best_first(dst: int) -> Iterator[tuple[float, int, int]]:
        segment = -keys[first[dst] : first[dst + 1]]
        order = np.argsort(segment, kind="stable")
        return zip(segment[order].tolist(), (order + first[dst]).tolist(), repeat(dst))

    # One entry a connected destination: its best edge that is not kept yet.
    queues = {logits: best_first(logits)}
    heap = [next(queues[logits])]
    kept = np.zeros(wiring.n_edges, dtype=bool)
    for _ in range(n):
        if not heap:  # the rest cannot reach the logits
            break
        _, edge, dst = heapq.heappop(heap)
        kept[edge] = True
        span = dst // wiring.n_dst
        for new in inputs_of[span * wiring.n_src + edge - first[dst]]:
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

    Where spans are told apart, a path stays in its span but through keys and values, which lead
    into every span that may see theirs (`Wiring.sees`), and it ends at the last token. That the
    prompts differ in some spans only is not known here.
    """
    return circuit.keeping(circuit.kept & _joined(circuit.wiring, circuit.kept))


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
    """A random circuit of n edges, none dangling: the baseline for a pruned circuit.

    Edges come in random order; the longest beginning whose pruned circuit has at most n edges is
    taken, and random edges between that circuit's own nodes make up the difference. (n edges drawn
    blindly would lose most of themselves to pruning and be no fair opponent.) Where spans are told
    apart some edges lie on no path at all; then those that do are the most there are.
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
        inside = np.flatnonzero(_joined(wiring, kept) & ~kept)
        if inside.size:
            kept[rng.choice(inside, size=min(missing, inside.size), replace=False)] = True
        elif not _add_detour(wiring, kept, missing, rng):
            break
    return Circuit(wiring, kept)


def _add_detour(
    wiring: Wiring, kept: Bool[np.ndarray, " edge"], missing: int, rng: np.random.Generator
) -> bool:
    """Two edges through a node that is not in the circuit yet, whose own nodes have all edges.

    Where one edge is missing, input->logits makes room: every node of a circuit that has all its
    edges is connected to both ends without it. False where every node there is has its edges.
    """
    inputs_of, first = inputs_of_sources(wiring), first_edges(wiring)
    needed = leading(wiring, wiring.to_matrix(kept, fill=False)).ravel()
    ways = []
    for place in range(len(inputs_of)):
        span, src = divmod(place, wiring.n_src)
        slots = [dst for dst in inputs_of[place] if not needed[dst]]
        if not slots or needed[inputs_of[place][0]]:
            continue
        start = span * wiring.n_dst
        readers = start + np.flatnonzero(wiring.mask[src] & needed[start : start + wiring.n_dst])
        if span == wiring.last_span:
            readers = np.array([logits_place(wiring)])
        if readers.size:
            ways.append((src, slots, readers))
    if not ways:
        return False
    src, slots, readers = ways[int(rng.integers(len(ways)))]
    kept[first[int(rng.choice(slots))]] = True
    kept[first[int(rng.choice(readers))] + src] = True
    if missing == 1:
        kept[first[logits_place(wiring)]] = False
    return True


def _joined(wiring: Wiring, kept: Bool[np.ndarray, " edge"]) -> Bool[np.ndarray, " edge"]:
    """Edges, kept or not, that lead on from what `input` reaches to what reaches `logits`."""
    matrix = wiring.to_matrix(kept, fill=False)
    reached, needed = _reached(wiring, matrix), leading(wiring, matrix)
    span = wiring.edge_span
    return reached[span, wiring.edge_src] & needed[span, wiring.edge_dst]


def _reached(
    wiring: Wiring, kept: Bool[np.ndarray, "*span src dst"]
) -> Bool[np.ndarray, "span src"]:
    """Sources that `input` reaches over kept edges."""
    spans = wiring.n_spans
    matrix = kept.reshape(spans, wiring.n_src, wiring.n_dst)
    reached = np.zeros((spans, wiring.n_src), dtype=bool)
    reached[:, 0] = True
    for layer, attn, heads, mlp in _layers(wiring):
        earlier = reached[:, : heads.start, None]
        read = (earlier & matrix[:, : heads.start, attn]).any(axis=1)
        queries, shared = read[:, : wiring.n_heads], read[:, wiring.n_heads :]
        keys_values = shared.reshape(spans, 2, -1).any(axis=1).repeat(wiring.queries_per_key, 1)
        reached[:, heads] = queries | (wiring.sees.T @ keys_values)
        reached[:, mlp] = (reached[:, :mlp] & matrix[:, :mlp, wiring.mlp_dst(layer)]).any(axis=1)
    return reached


def leading(
    wiring: Wiring, kept: Bool[np.ndarray, "*span src dst"]
) -> Bool[np.ndarray, "span dst"]:
    """Destinations that reach `logits` over kept edges."""
    spans = wiring.n_spans
    matrix = kept.reshape(spans, wiring.n_src, wiring.n_dst)
    needed = np.zeros((spans, wiring.n_dst), dtype=bool)
    needed[wiring.last_span, wiring.logits_dst] = True
    for layer, attn, heads, mlp in reversed(list(_layers(wiring))):
        later = slice(wiring.mlp_dst(layer), None)
        needed[:, later.start] = (matrix[:, mlp, later] & needed[:, later]).any(axis=1)
        live = (matrix[:, heads, later] & needed[:, None, later]).any(axis=2)
        groups = live.reshape(spans, wiring.n_key_inputs, -1).any(axis=2)
        keys_values = wiring.sees @ groups
        needed[:, attn] = np.concatenate([live, keys_values, keys_values], axis=1)
    return needed


def _layers(wiring: Wiring) -> Iterator[tuple[int, slice, slice, int]]:
    """Each layer's number, attention destinations, head sources and MLP source."""
    for layer in range(wiring.n_layers):
        start, src = wiring.attn_dst(layer), wiring.head_src(layer)
        attn = slice(start, start + wiring.n_attn)
        yield layer, attn, slice(src, src + wiring.n_heads), wiring.mlp_src(layer)


def first_edges(wiring: Wiring) -> list[int]:
    """Index of each destination's first edge, from `input`, span by span; then the edge count."""
    return [*wiring.first_edge.ravel().tolist(), wiring.n_edges]


def logits_place(wiring: Wiring) -> int:
    """Place of the logits, where the last token stands, among the destinations of all spans."""
    return wiring.last_span * wiring.n_dst + wiring.logits_dst


@lru_cache(maxsize=8)
def inputs_of_sources(wiring: Wiring) -> list[tuple[int, ...]]:
    """Destinations of each source's node: none for `input`, three for a head, one for an MLP.

    A shared key or value is listed with every head of its group. Where spans are told apart,
    sources and destinations come span by span, and a head has keys and values in all that it sees.
    """
    inputs: list[tuple[int, ...]] = []
    for span in range(wiring.n_spans):
        own = span * wiring.n_dst
        seen = (np.flatnonzero(wiring.sees[:, span]) * wiring.n_dst).tolist()
        inputs.append(())
        for layer in range(wiring.n_layers):
            start = wiring.attn_dst(layer)
            for head in range(wiring.n_heads):
                key = start + wiring.n_heads + head // wiring.queries_per_key
                read = [at + end for at in seen for end in (key, key + wiring.n_key_inputs)]
                inputs.append((own + start + head, *read))
            inputs.append((own + wiring.mlp_dst(layer),))
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
