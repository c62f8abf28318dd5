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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import PairBatch, TokenPair, batches
from circuits.graph.ablation import SourceConstants, source_constants
from circuits.graph.circuit import EdgeScores, Wiring
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import HeadProjections, Hook, Model
from locate.edges.locators import Locator
from locate.edges.passes import SourceDifferences
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
    scoring = _exact(scoring, options)
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
    scoring = _exact(scoring, options)
    wiring = model.wiring(scoring.kv)
    chosen = np.array([_edge_index(wiring, edge) for edge in edges], dtype=np.int64)
    if chosen.size == 0:
        raise OptionError("name at least one edge to patch")
    per_pair = _patch(model, pairs, wiring, chosen, scoring, batch_size, max_rows, progress)
    names = tuple(wiring.edge_name(edge) for edge in chosen)
    return PatchedEdges(names, _mean(per_pair), per_pair, _provenance(model, pairs, scoring))


def _exact(scoring: Scoring | None, options: dict[str, Any]) -> Scoring:
    """The scoring, recorded as what it is."""
    given = Scoring.of(scoring, options, method=Locator.EXACT)
    return given if given.method == Locator.EXACT else replace(given, method=Locator.EXACT)


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
        run = _CleanRun(model, wiring, batch, constants)

        def metric(logits: Tensor, batch: PairBatch = batch, run: _CleanRun = run) -> Tensor:
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


def _stage_of(wiring: Wiring, dst: Int[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
    """4 * layer + (0: queries, 1: keys, 2: values, 3: MLP); the logits stand for a last layer."""
    layer, place = np.divmod(dst, wiring.n_attn + 1)
    ends = np.cumsum([wiring.n_heads, wiring.n_key_inputs, wiring.n_key_inputs])
    return 4 * layer + np.searchsorted(ends, place, side="right")


def _chunks(
    wiring: Wiring, edges: Int[np.ndarray, " edge"], size: int
) -> Iterator[Int[np.ndarray, " chunk"]]:
    """Places in `edges` whose destinations are of one stage, at most `size` at a time."""
    stages = _stage_of(wiring, wiring.edge_dst[edges])
    for stage in np.unique(stages):
        places = np.flatnonzero(stages == stage)
        yield from (places[start : start + size] for start in range(0, len(places), size))


class _CleanRun:
    """A batch's clean run, and what each source's replacement takes away from its readers.

    Residuals are batch pos d_model from the first differing position on; queries, keys, values and
    head outputs are head batch pos d_head, keys and values of all positions.
    """

    def __init__(
        self,
        model: Model,
        wiring: Wiring,
        batch: PairBatch,
        constants: SourceConstants | None,
    ) -> None:
        self.model, self.wiring = model, wiring
        self.start = batch.first_difference if constants is None else 0
        self.prefix = model.share_prefix(batch.clean[:, : self.start])
        places = torch.arange(batch.clean.shape[1], device=model.device)
        self.causal = places[None, :] <= places[self.start :, None]
        seen: dict[str, Tensor] = {}
        differences = SourceDifferences(model)
        hooks = [*differences.hooks(1), *_keep(seen, self._names())]
        self.logits = model.last_logits(batch.clean[:, self.start :], hooks, self.prefix)
        if constants is None:
            corrupted = batch.corrupted[:, self.start :]
            model.last_logits(corrupted, differences.hooks(-1), self.prefix)
        else:
            differences.subtract(constants)
        layers = range(model.n_layers)
        self.resid_pre = [seen[taps.resid_pre(layer)] for layer in layers]
        self.resid_mid = [seen[taps.resid_mid(layer)] for layer in layers]
        self.final = seen[taps.resid_post(model.n_layers - 1)][:, -1]
        self.attention = [self._attention(seen, layer) for layer in layers]
        self.differences = self._all_differences(differences)
        self._projections: tuple[int, HeadProjections] | None = None

    def _names(self) -> list[str]:
        names = []
        for layer in range(self.model.n_layers):
            names += [taps.resid_pre(layer), taps.resid_mid(layer), taps.head_outputs(layer)]
            names += taps.projections(layer)
        return [*names, taps.resid_post(self.model.n_layers - 1)]

    def _attention(self, seen: dict[str, Tensor], layer: int) -> _Attention:
        def heads_first(name: str) -> Tensor:
            value = seen[name]
            return value.view(*value.shape[:2], -1, self.model.d_head).permute(2, 0, 1, 3)

        rotate = self.model.rotate
        queries, keys, values = (heads_first(name) for name in taps.projections(layer))
        return _Attention(
            queries=rotate(queries, self.start),
            keys=self._with_prefix(layer, 0, rotate(keys, self.start)),
            values=self._with_prefix(layer, 1, values),
            outputs=heads_first(taps.head_outputs(layer)),
        )

    def _with_prefix(self, layer: int, which: int, value: Tensor, at: Any = slice(None)) -> Tensor:
        """Keys (0) or values (1), each row's own key-value head `at`, after the prefix's."""
        if self.prefix is None:
            return value
        before = self.prefix.keys_values[layer][which].transpose(0, 1)[at]
        return torch.cat([before.expand(*value.shape[:2], -1, -1), value], 2)

    def _all_differences(
        self, differences: SourceDifferences
    ) -> Float[Tensor, "src batch pos d_model"]:
        model, (batch, length) = self.model, self.resid_pre[0].shape[:2]
        result = self.final.new_empty(self.wiring.n_src, batch * length, model.d_model)
        result[0] = differences.values["embedding"].reshape(-1, model.d_model)
        for layer in range(model.n_layers):
            differences.write_layer(layer, slice(None), result, self.wiring.head_src(layer))
        return result.view(-1, batch, length, model.d_model)

    def without(self, edges: Int[np.ndarray, " edge"]) -> Float[Tensor, "edge batch d_vocab"]:
        """Last-position logits with each edge replaced; all destinations must be of one stage."""
        device = self.model.device
        sources = torch.from_numpy(self.wiring.edge_src[edges]).to(device)
        dst = self.wiring.edge_dst[edges]
        layer, slot = divmod(int(_stage_of(self.wiring, dst[:1])[0]), 4)
        if layer == self.model.n_layers:
            return self.model.unembed(self.final - self.differences[sources, :, -1])
        at = self._read(layer)
        mid = self.resid_mid[layer][:, at]
        if slot == 3:
            changed = mid - self.differences[sources][:, :, at]
            residual = mid + self._run_mlp(layer, changed)
        else:
            places = torch.from_numpy(dst - self.wiring.attn_dst(layer)).to(device)
            mid = mid + self._attention_change(layer, slot, places, sources)
            residual = mid + self._run_mlp(layer, mid)
        return self._run_from(layer + 1, residual)

    def _read(self, layer: int) -> slice:
        """Positions at which a layer's output matters: after the last layer only the last does."""
        return slice(-1, None) if layer == self.model.n_layers - 1 else slice(None)

    def _attention_change(
        self,
        layer: int,
        slot: int,
        places: Int[Tensor, " edge"],
        sources: Int[Tensor, " edge"],
    ) -> Float[Tensor, "edge batch pos d_model"]:
        """New minus clean output of the heads that each destination feeds."""
        model, wiring, clean = self.model, self.wiring, self.attention[layer]
        at = self._read(layer)
        replaced = self._project(layer, slot, places, sources)
        first = (0, wiring.n_heads, wiring.n_heads + wiring.n_key_inputs)[slot]
        width = 1 if slot == 0 else wiring.queries_per_key
        heads = (places - first)[:, None] * width + torch.arange(width, device=places.device)
        shared = heads // (model.n_heads // model.n_kv_heads)
        queries, keys, values = clean.queries[heads], clean.keys[shared], clean.values[shared]
        if slot == 0:
            queries = replaced[:, None]
        else:
            replaced = self._with_prefix(layer, slot - 1, replaced, shared[:, 0])
            replaced = replaced[:, None].expand_as(keys)
            keys, values = (replaced, values) if slot == 1 else (keys, replaced)
        mixed = F.scaled_dot_product_attention(
            queries[..., at, :].flatten(0, 1),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            attn_mask=self.causal[at],
        )
        change = mixed.view(*heads.shape, *mixed.shape[1:]) - clean.outputs[heads][..., at, :]
        change = change.permute(0, 2, 3, 1, 4)  # edge batch pos head d_head
        output = model.head_output_weights(layer)[heads].flatten(1, 2)
        written = change.reshape(len(heads), -1, output.shape[1]) @ output
        return written.view(*change.shape[:3], model.d_model)

    def _project(
        self, layer: int, slot: int, places: Int[Tensor, " edge"], sources: Int[Tensor, " edge"]
    ) -> Float[Tensor, "edge batch pos d_head"]:
        """Each destination's query, key or value without its source."""
        at = self._read(layer) if slot == 0 else slice(None)
        if self._projections is None or self._projections[0] != layer:
            self._projections = (layer, self.model.head_projections(layer, self.wiring.kv))
        weight, offset = self._projections[1].weight, self._projections[1].offset
        residual = self.resid_pre[layer][:, at] - self.differences[sources][:, :, at]
        hats = self.model.normalise(residual)
        weight = weight[places].transpose(1, 2)
        projected = torch.baddbmm(offset[places, None], hats.flatten(1, 2), weight)
        projected = projected.view(*hats.shape[:3], -1)
        last = self.causal.shape[1] - hats.shape[2]
        return projected if slot == 2 else self.model.rotate(projected, last)

    def _run_mlp(self, layer: int, resid_mid: Tensor) -> Tensor:
        rows = resid_mid.flatten(0, 1).contiguous()
        return self.model.run_mlp(layer, rows).view(resid_mid.shape)

    def _run_from(
        self, layer: int, residual: Float[Tensor, "edge batch pos d_model"]
    ) -> Float[Tensor, "edge batch d_vocab"]:
        """Layers from `layer` on, final norm and output matrix."""
        n_edges, batch = residual.shape[:2]
        rows = residual.flatten(0, 1)
        for upper in range(layer, self.model.n_layers):
            attention = self.model.run_attention(upper, rows, self._earlier(upper, n_edges, batch))
            rows = (rows + attention)[:, self._read(upper)].contiguous()
            rows = rows + self.model.run_mlp(upper, rows)
        return self.model.unembed(rows[:, -1]).view(n_edges, batch, -1)

    def _earlier(self, layer: int, n_edges: int, batch: int) -> tuple[Tensor, Tensor] | None:
        if self.prefix is None:
            return None
        keys, values = (
            value.expand(batch, -1, -1, -1).repeat(n_edges, 1, 1, 1)
            for value in self.prefix.keys_values[layer]
        )
        return keys, values


@dataclass(frozen=True)
class _Attention:
    """What a layer's heads computed in the clean run: head batch pos d_head each."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    outputs: Tensor


def _keep(seen: dict[str, Tensor], names: Sequence[str]) -> list[Hook]:
    return [(name, lambda value, hook, at=name: seen.__setitem__(at, value)) for name in names]


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
