"""ACDC: greedy exact patching (Conmy et al. 2023, algorithm 1).

Start from the whole graph H and go over its edges once, from the logits down: destinations in
reverse topological order (within a layer: MLP, values, keys, queries, each from the last head to
the first), and the sources of a destination from the latest writer to `input`. An edge goes where
its removal costs little:

    remove u -> v  if  m(H) - m(H without u -> v) < threshold,

m being the metric's mean over the pairs, replaced edges carrying the corrupted run's value or a
constant. With KL (m = -KL) this is the paper's rule, increase of KL < threshold. The drop is
signed: an edge that works against the answer is always removed. What feeds a node that nothing
reads any more is removed without a run, since it cannot change the metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.measuring import BaseRuns, MeanMetric
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.edges.locators import Locator
from locate.search import Scoring, Search

DEFAULT_TAU = 0.05
"""The threshold where none is given, in units of the metric."""


@alone
def acdc(
    model: Model,
    pairs: Sequence[TokenPair],
    threshold: float,
    scoring: Scoring | None = None,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
    **options: Any,
) -> Circuit:
    """The circuit that greedy removal leaves, pruned of what no longer hangs together.

    `threshold` is in units of the metric. `Circuit.scores` holds the drop that was measured when
    the edge was tried, 0 where it went without a run; `provenance["selection"]` holds the
    threshold, the number of runs, and the number of edges before and after pruning. `progress` is
    called with (edges decided, edges in all). Raises NumericalError where the metric of a run is
    not finite.
    """
    scoring = Scoring.of(scoring, options, method=Locator.ACDC).by(Locator.ACDC)
    if not (math.isfinite(threshold) and threshold >= 0):
        raise OptionError(
            f"the threshold must be a finite number from 0 up, not {threshold}: it is how much of "
            "the metric a removed edge may cost"
        )
    wiring = model.wiring(scoring.kv)
    base = BaseRuns(model, pairs, wiring, scoring.metric, scoring.ablation, batch_size)
    metric = MeanMetric(base)
    kept, drops = wiring.mask.copy(), np.zeros(wiring.n_edges, dtype=np.float32)
    current = metric.of(kept)
    for done, edge in enumerate(reversed(range(wiring.n_edges)), start=1):
        src, dst = wiring.edge_src[edge], wiring.edge_dst[edge]
        kept[src, dst] = False
        if _is_read(wiring, kept, int(dst)):
            value = metric.of(kept, wiring.edge_name(edge))
            drops[edge] = current - value
            if current - value < threshold:
                current = value
            else:
                kept[src, dst] = True
        if progress is not None:
            progress(done, wiring.n_edges)
    provenance = {**model.provenance, **scoring.record(), "pairs": len(pairs)}
    scores = EdgeScores(wiring, drops, provenance=provenance)
    chosen = Circuit(wiring, wiring.from_matrix(kept), scores)
    pruned = prune(chosen)
    selection = {
        "selection": "acdc",
        "threshold": threshold,
        "runs": metric.n_runs,
        "edges_selected": chosen.n_edges,
        "edges_after_pruning": pruned.n_edges,
    }
    return Circuit(wiring, pruned.kept, scores, provenance={**provenance, "selection": selection})


@alone
def search(
    model: Model,
    pairs: Sequence[TokenPair],
    search: Search,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> Circuit:
    """ACDC as a locator: the search's threshold is tau, its number of edges an upper bound.

    There are no scores of single pairs to keep.
    """
    threshold = DEFAULT_TAU if search.threshold is None else search.threshold
    circuit = acdc(model, pairs, threshold, search, batch_size=batch_size, progress=progress)
    if search.edges is None or circuit.n_edges <= search.edges:
        return circuit
    assert circuit.scores is not None
    drops = np.where(circuit.kept, circuit.scores.values, -np.inf)
    kept = np.zeros_like(circuit.kept)
    kept[np.argsort(-drops, kind="stable")[: search.edges]] = True
    capped = prune(circuit.keeping(kept))
    record = {**circuit.provenance["selection"], "n": search.edges}
    record |= {"edges_selected": int(kept.sum()), "edges_after_pruning": capped.n_edges}
    return replace(capped, provenance={**capped.provenance, "selection": record})


def _is_read(wiring: Wiring, kept: Bool[np.ndarray, "src dst"], dst: int) -> bool:
    """Whether anything reads a node that this destination feeds."""
    if dst == wiring.logits_dst:
        return True
    layer, place = divmod(dst, wiring.n_attn + 1)
    if place == wiring.n_attn:
        return bool(kept[wiring.mlp_src(layer)].any())
    if place < wiring.n_heads:
        return bool(kept[wiring.head_src(layer, place)].any())
    width = wiring.queries_per_key
    first = wiring.head_src(layer, (place - wiring.n_heads) % wiring.n_key_inputs * width)
    return bool(kept[first : first + width].any())
