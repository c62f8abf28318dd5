"""Exact edge patching: what the metric loses when one edge carries its replaced value.

    score(u -> v) = m(clean) - m(clean run in which v reads u's replaced output)

with everything after v recomputed: the number that edge attribution estimates, and the same as
running the full circuit without that edge. All edges that read at one stage (a layer's queries,
keys, values or MLP) are patched together, each as extra rows of the batch:

1. Run the clean and the replaced prompt once; keep what every node reads and writes.
2. For each edge take the source's difference out of what the destination read and recompute that
   destination only: one head, or all heads that share the key or value, or the MLP.
3. Add the change of its output to the clean residual stream and run the layers above.

Positions before the first differing token are the same in all runs and enter as keys and values;
the last layer is run at the last position only. So an edge costs the layers above it, in large
batches, and half of all edges end in the upper third of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.graph.scores import EdgeScores
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.edges.clean_run import CleanRun, stage_of
from locate.edges.locators import Locator
from locate.search import Scoring


@dataclass(frozen=True, eq=False)
class PatchedEdges:
    """Exact scores of chosen edges; `values` is the mean of `per_pair` over the pairs."""

    names: tuple[str, ...]
    values: Float[np.ndarray, " edge"]
    per_pair: Float[np.ndarray, "pair edge"]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, edge: str) -> float:
        return float(self.values[self.names.index(edge)])


@alone
def patch_edges(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring | None = None,
    *,
    batch_size: int = 16,
    max_rows: int = 256,
    keep_pairs: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> EdgeScores:
    """Exact scores of all edges, averaged over the pairs.

    Metric, ablation and kv of the scoring count, and may be given by name.
    `max_rows` bounds the sequences that go through the model at once. `keep_pairs` also keeps each
    pair's scores. `progress` is called with (runs done, runs in all), a run being one edge on one
    pair. Raises NumericalError naming the pair whose scores are not finite.
    """
    scoring = Scoring.of(scoring, options, method=Locator.EXACT).by(Locator.EXACT)
    wiring = model.wiring(scoring.kv)
    edges = np.arange(wiring.n_edges)
    per_pair = _patch(model, pairs, wiring, edges, scoring, batch_size, max_rows, progress)
    provenance = _provenance(model, pairs, scoring)
    return EdgeScores(wiring, _mean(per_pair), per_pair if keep_pairs else None, provenance)


@alone
def patch_chosen_edges(
    model: Model,
    pairs: Sequence[TokenPair],
    edges: Sequence[str | int],
    scoring: Scoring | None = None,
    *,
    batch_size: int = 16,
    max_rows: int = 256,
    progress: Progress | None = None,
    **options: Any,
) -> PatchedEdges:
    """Exact scores of some edges, given by name or canonical index, in the order given.

    Raises OptionError where the model has no such edge; otherwise as `patch_edges`.
    """
    scoring = Scoring.of(scoring, options, method=Locator.EXACT).by(Locator.EXACT)
    wiring = model.wiring(scoring.kv)
    chosen = np.array([_edge_index(wiring, edge) for edge in edges], dtype=np.int64)
    if chosen.size == 0:
        raise OptionError("name at least one edge to patch")
    per_pair = _patch(model, pairs, wiring, chosen, scoring, batch_size, max_rows, progress)
    names = tuple(wiring.edge_name(edge) for edge in chosen)
    return PatchedEdges(names, _mean(per_pair), per_pair, _provenance(model, pairs, scoring))


def _edge_index(wiring: Wiring, edge: str | int) -> int:
    if isinstance(edge, str):
        return wiring.edge_index(edge)
    if not 0 <= edge < wiring.n_edges:
        raise OptionError(f"there is no edge {edge}: {wiring.describe()} has {wiring.n_edges}")
    return int(edge)


def _mean(per_pair: Float[np.ndarray, "pair edge"]) -> Float[np.ndarray, " edge"]:
    return per_pair.mean(0, dtype=np.float64).astype(np.float32)


def _provenance(model: Model, pairs: Sequence[TokenPair], scoring: Scoring) -> dict[str, Any]:
    return {**model.provenance, **scoring.record(), "pairs": len(pairs)}


@torch.no_grad()
def _patch(
    model: Model,
    pairs: Sequence[TokenPair],
    wiring: Wiring,
    edges: Int[np.ndarray, " edge"],
    scoring: Scoring,
    batch_size: int,
    max_rows: int,
    progress: Progress | None,
) -> Float[np.ndarray, "pair edge"]:
    if not pairs:
        raise OptionError("there are no prompt pairs to score")
    if max_rows < 1:
        raise OptionError(f"a batch must have room for at least 1 row, not {max_rows}")
    constants = None
    if scoring.ablation.is_constant:
        constants = source_constants(model, pairs, scoring.ablation, batch_size)
    scores = np.empty((len(pairs), edges.size), dtype=np.float32)
    done = 0
    for batch in batches(pairs, min(batch_size, max_rows), model):
        run = CleanRun(model, wiring, batch, constants)

        def metric(logits: Tensor, batch: PairBatch = batch, run: CleanRun = run) -> Tensor:
            return evaluate_metric(scoring.metric, logits, batch.wanted, batch.unwanted, run.logits)

        clean, rows = metric(run.logits), np.array(batch.index)
        for chunk in _chunks(wiring, edges, max(1, max_rows // len(batch))):
            drops = [clean - metric(logits) for logits in run.without(edges[chunk])]
            scores[np.ix_(rows, chunk)] = torch.stack(drops, 1).float().cpu().numpy()
            done += len(chunk) * len(batch)
            if progress is not None:
                progress(done, scores.size)
        _check_finite(model, scores, edges, batch, pairs, wiring)
    return scores


def _chunks(
    wiring: Wiring, edges: Int[np.ndarray, " edge"], size: int
) -> Iterator[Int[np.ndarray, " chunk"]]:
    """Places in `edges` whose destinations are of one stage, at most `size` at a time."""
    stages = stage_of(wiring, wiring.edge_dst[edges])
    for stage in np.unique(stages):
        places = np.flatnonzero(stages == stage)
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _check_finite(
    model: Model,
    scores: Float[np.ndarray, "pair edge"],
    edges: Int[np.ndarray, " edge"],
    batch: PairBatch,
    pairs: Sequence[TokenPair],
    wiring: Wiring,
) -> None:
    bad = np.argwhere(~np.isfinite(scores[list(batch.index)]))
    if len(bad):
        row, place = bad[0]
        raise NumericalError(
            f"the score of {wiring.edge_name(int(edges[place]))} is not a finite number for the "
            f"prompt {pairs[batch.index[row]].text.clean!r}; "
            f"{model.why_not_finite()}"
        )
