"""Run a circuit: clean-run values along kept edges, replaced values along all others.

With `base` for a source's replaced output and `now` for its output within the circuit, what a
destination t reads is

    x_t = base residual at t + sum over kept edges s -> t of (now_s - base_s),

(where spans of the prompt are told apart, over the edges that are kept in the span of the position)
so one pass that caches the base run serves every circuit, and only *live* nodes cost anything:
a head or MLP none of whose inputs changed still writes its base value. Attention keys and values
of unchanged inputs come from the cache. Positions before the first differing token are the same
in both runs and are never recomputed.

Where heads share a norm, after the attention or on their queries and keys, one that changes changes
what the others write. A head that leads nowhere has its base value in such a norm, after the
attention the corrupted run's or its constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.facts.batches import PairBatch
from circuits.graph.ablation import SourceConstants, source_hooks
from circuits.graph.circuit import Circuit
from circuits.graph.live import LiveSources
from circuits.graph.select import leading
from circuits.model import taps
from circuits.model.model import Model
from circuits.model.weights import HeadProjections
from circuits.model.wiring import Wiring


@dataclass(frozen=True)
class _BaseRun:
    """What every node reads and writes when no edge is kept. Rows are (example, position)."""

    embedding: Tensor
    resid_pre: list[Tensor]
    mlp_residual: list[Tensor]
    heads: list[Tensor]
    raw: list[Tensor]
    mlps: list[Tensor]
    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    final: Tensor


class CircuitRunner:
    """Runs circuits of one wiring on one batch of pairs; the model itself is left untouched."""

    @torch.no_grad()
    def __init__(
        self,
        model: Model,
        batch: PairBatch,
        wiring: Wiring,
        ablation: Ablation | str = Ablation.PATCH,
        constants: SourceConstants | None = None,
        projections: Sequence[HeadProjections] | None = None,
        spans: Int[np.ndarray, "batch pos"] | None = None,
    ) -> None:
        """`projections` may be given to share them between batches (`head_projections`).

        `spans` says of each position which of the wiring's spans it is in, where those are told
        apart; the last position is alone in its own (`circuits.facts.spans.batch_places`).
        """
        self.model, self.wiring, self.ablation = model, wiring, Ablation.of(ablation)
        self.start = 0 if self.ablation.is_constant else batch.first_difference
        self.n_examples, length = batch.clean.shape
        self.n_positions = length - self.start
        self.n_rows = self.n_examples * self.n_positions
        self._projections = head_projections(model, wiring) if projections is None else projections
        self._prefix = model.share_prefix(batch.clean[:, : self.start])
        self._ends = batch.ends_from(self.start)
        self._last = self._last_rows()
        clean = batch.clean[:, self.start :]
        self.clean_logits = model.last_logits(clean, prefix=self._prefix, ends=self._ends)
        layers = range(model.n_layers)
        self._masks = [model.mask(layer, self.start, self.n_positions) for layer in layers]
        if self.ablation.is_constant:
            assert constants is not None, "zero and mean ablation need constants"
            self.base = self._constant_run(batch, constants)
        else:
            self.base = self._corrupted_run(batch)
        clean = model.embed(batch.clean[:, self.start :]).flatten(0, 1)
        self._embedding_change = clean - self.base.embedding
        self._span_rows: list[Tensor] = []
        if wiring.spans:
            assert spans is not None, "an edge in a span needs to know where the span is"
            places = torch.from_numpy(spans[:, self.start :].reshape(-1)).to(model.device)
            self._span_rows = [(places == n).nonzero()[:, 0] for n in range(wiring.n_spans)]

    @torch.no_grad()
    def run(
        self, circuit: Circuit | Bool[np.ndarray, "*span src dst"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits after the last position when only the circuit's edges carry clean values."""
        matrix = circuit.matrix() if isinstance(circuit, Circuit) else circuit
        kept = torch.from_numpy(self._leading(matrix)).to(self.model.device)
        kept = kept.view(self.wiring.n_spans, *kept.shape[-2:])
        sources = LiveSources(
            self._embedding_change, self.n_examples, kept, self._span_rows, self.wiring.last_span
        )
        for layer in range(self.model.n_layers):
            self._run_heads(layer, kept, sources)
            self._run_mlp(layer, kept, sources)
        return self.model.unembed(self.base.final + sources.sum_into(kept[..., -1:])[0])

    def _leading(
        self, kept: Bool[np.ndarray, "*span src dst"]
    ) -> Bool[np.ndarray, "*span src dst"]:
        """The kept edges; where heads share a norm, those that lead to the logits."""
        if not (self.model.architecture.normed_after or self.model.architecture.is_joint):
            return kept
        leads = leading(self.wiring, kept)
        return kept & leads.reshape(*kept.shape[:-2], 1, -1)

    def _run_heads(
        self, layer: int, kept: Bool[Tensor, "span src dst"], sources: LiveSources
    ) -> None:
        wiring, model, base = self.wiring, self.model, self.base
        start, n_heads, n_keys = wiring.attn_dst(layer), model.n_heads, wiring.n_key_inputs
        columns = sources.rows_of(kept[..., start : start + wiring.n_attn])
        shared = torch.arange(n_heads, device=kept.device) // wiring.queries_per_key
        first = wiring.head_src(layer)
        read = active = kept[:, first : first + n_heads].any(2).any(0)
        if model.architecture.is_joint:
            keys_read = read.view(n_keys, -1).any(1)
            columns = columns & torch.cat([read, keys_read, keys_read])
        changed = columns.any(1).any(0)
        if model.architecture.is_joint:
            changed[:n_heads] = changed[:n_heads].any()
            changed[n_heads : n_heads + n_keys] = changed[n_heads : n_heads + n_keys].any()
        if not self.ablation.is_constant:  # a constant is no function of unchanged inputs
            key_changed = changed[n_heads : n_heads + n_keys] | changed[n_heads + n_keys :]
            active = active & (changed[:n_heads] | key_changed[shared])
        heads = active.nonzero()[:, 0]
        is_last = layer == model.n_layers - 1
        if len(heads) == 0:
            if is_last:
                sources.keep_last_position(self._last)
            return
        queries, keys, values = base.queries[layer], base.keys[layer], base.values[layer]
        targets = changed.nonzero()[:, 0]
        if len(targets):
            split = self._split(targets)
            residual = sources.sum_into(columns[..., targets], live_rows=True)
            residual.add_(self.base.resid_pre[layer])
            new = self._project(layer, residual, targets, split)
            at = targets.split(split)
            queries = _replaced(queries, at[0], new[0], 0)
            keys = _replaced(keys, at[1] - n_heads, new[1], self.start)
            values = _replaced(values, at[2] - n_heads - n_keys, new[2], self.start)
        if is_last:  # from here on only the last position reaches the logits
            sources.keep_last_position(self._last)
        written, heads = self._heads_written(layer, heads, read, queries, keys, values)
        sources.add(written, wiring.head_src(layer) + heads)

    def _heads_written(
        self,
        layer: int,
        heads: Int[Tensor, " active"],
        read: Bool[Tensor, " head"],
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Float[Tensor, "changed row d_model"], Int[Tensor, " changed"]]:
        """Now minus base output of the heads that change, and which these are.

        They are the `active` ones; where a norm after attention joins them, all that are `read`.
        """
        model, base, mask = self.model, self.base, self._masks[layer]
        if layer == model.n_layers - 1:
            queries, mask = self._at_end(queries, mask)
        shared = heads // self.wiring.queries_per_key
        mixed = model.mix(layer, queries[:, heads], keys[:, shared], values[:, shared], mask)
        mixed = mixed.permute(1, 0, 2, 3)
        mixed = model.patching.heads(layer, heads, mixed, self._first(mixed))
        mixed = mixed.reshape(len(heads), -1, model.d_head)
        if model.architecture.normed_after:
            everyone = base.raw[layer].clone()
            everyone[:, heads] = mixed.transpose(0, 1)
            heads = read.nonzero()[:, 0]
            mixed = model.share_heads(layer, everyone)[:, heads].transpose(0, 1)
        mixed = mixed - base.heads[layer][:, heads].transpose(0, 1)
        return torch.bmm(mixed, model.head_output_weights(layer)[heads]), heads

    def _at_end(
        self, queries: Float[Tensor, "batch head pos d_head"], mask: Bool[Tensor, "pos key"]
    ) -> tuple[Tensor, Tensor]:
        """Those of each example's last position."""
        if self._ends is None:
            return queries[:, :, -1:], mask[-1:]
        own = self._ends[:, None, None, None]
        return queries.take_along_dim(own, 2), mask[self._ends][:, None, None]

    def _split(self, targets: Tensor) -> list[int]:
        """How many of a layer's attention destinations, in order, are queries, keys and values."""
        n_heads, n_keys = self.model.n_heads, self.wiring.n_key_inputs
        n_queries, n_both = ((targets < end).sum().item() for end in (n_heads, n_heads + n_keys))
        return [int(n_queries), int(n_both - n_queries), int(len(targets) - n_both)]

    def _project(
        self,
        layer: int,
        residual: Float[Tensor, "target row d_model"],
        targets: Tensor,
        split: list[int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (batch dst pos d_head) that read this, ready to be mixed."""
        model = self.model
        hats = model.normalise(residual)
        projections = self._projections[layer]
        weight, offset = projections.weight, projections.offset
        if len(targets) < len(weight):
            weight, offset = weight[targets], offset[targets]
        result = torch.baddbmm(offset[:, None], hats, weight.transpose(1, 2))
        result = result.view(len(targets), self.n_examples, self.n_positions, model.d_head)
        queries, keys, values = result.transpose(0, 1).split(split, 1)
        queries = model.ready(layer, "q", queries, self.start) if split[0] else queries
        keys = model.ready(layer, "k", keys, self.start) if split[1] else keys
        return queries, keys, values

    def _run_mlp(
        self, layer: int, kept: Bool[Tensor, "span src dst"], sources: LiveSources
    ) -> None:
        wiring = self.wiring
        column = kept[..., wiring.mlp_dst(layer)][..., None]
        active = kept[:, wiring.mlp_src(layer)].any()
        if not self.ablation.is_constant:
            active = active & sources.rows_of(column).any()
        if not active:
            return
        residual = sources.sum_into(column)[0] + self.base.mlp_residual[layer]
        residual = residual.view(self.n_examples, -1, self.model.d_model)
        output = self.model.run_mlp(layer, residual, self._first(residual))
        output = output.flatten(0, 1)
        index = torch.tensor([wiring.mlp_src(layer)], device=kept.device)
        sources.add((output - self.base.mlps[layer])[None], index)

    def _first(self, value: Float[Tensor, "*rest pos width"]) -> int:
        """Position of the first of values that end where the prompts do."""
        return self.start + self.n_positions - value.shape[-2]

    # --- the base run ------------------------------------------------------------------------

    def _corrupted_run(self, batch: PairBatch) -> _BaseRun:
        model, seen = self.model, dict[str, Tensor]()

        def look(name: str) -> Any:
            return name, lambda value, hook: seen.__setitem__(name, value)

        hooks = source_hooks(model, seen.__setitem__)
        for layer in range(model.n_layers):
            reads = (taps.resid_pre(layer), model.taps.mlp_residual(layer))
            names = dict.fromkeys((*reads, *taps.projections(layer)))
            hooks += [look(name) for name in names]
        final = taps.resid_post(model.n_layers - 1)
        model.last_logits(batch.corrupted[:, self.start :], [*hooks, look(final)], self._prefix)
        layers = range(model.n_layers)
        split = [
            self._attention_ready(*(seen[name] for name in taps.projections(layer)), layer=layer)
            for layer in layers
        ]

        def rows(name: Callable[[int], str]) -> list[Tensor]:
            return self._per_layer([seen[name(layer)].flatten(0, 1) for layer in layers])

        return _BaseRun(
            embedding=seen["embedding"].flatten(0, 1),
            resid_pre=[seen[taps.resid_pre(layer)].flatten(0, 1) for layer in layers],
            mlp_residual=rows(model.taps.mlp_residual),
            heads=rows("heads.{}".format),
            raw=rows("raw.{}".format) if model.architecture.normed_after else [],
            mlps=rows("mlp.{}".format),
            queries=[queries for queries, _, _ in split],
            keys=[keys for _, keys, _ in split],
            values=[values for _, _, values in split],
            final=seen[final].flatten(0, 1)[self._last],
        )

    def _constant_run(self, batch: PairBatch, constants: SourceConstants) -> _BaseRun:
        """Every source writes its constant; positions and output biases are what they always are.

        The residual before the first layer comes from the model itself, so that whatever it adds
        to the token embedding (GPT-2's position embedding) is in it.
        """
        model, seen = self.model, dict[str, Tensor]()
        constant = constants.embedding.expand(*batch.clean.shape, -1)
        hooks = [
            (taps.EMBEDDING, lambda value, hook: constant.clone()),
            (taps.resid_pre(0), lambda value, hook: seen.__setitem__("start", value)),
        ]
        model.last_logits(batch.clean, hooks)
        residual = seen["start"].flatten(0, 1)
        start = constant.reshape(-1, model.d_model)
        base = _BaseRun(start, [], [], [], [], [], [], [], [], torch.empty(0))
        for layer in range(model.n_layers):
            heads, mlp = constants.heads[layer], constants.mlps[layer]
            base.resid_pre.append(residual)
            hats = model.normalise(residual)
            projections = self._projections[layer]
            full = torch.einsum("rd,ted->rte", hats, projections.weight) + projections.offset
            full = full.view(self.n_examples, self.n_positions, *full.shape[1:])
            sizes = [model.n_heads, self.wiring.n_key_inputs, self.wiring.n_key_inputs]
            queries, keys, values = self._attention_ready(*full.split(sizes, 2), layer=layer)
            base.queries.append(queries)
            base.keys.append(keys)
            base.values.append(values)
            base.heads.append(heads.expand(self.n_rows, -1, -1))
            if model.architecture.normed_after:
                base.raw.append(constants.raw_heads[layer].expand(self.n_rows, -1, -1))
            output = torch.einsum("he,hed->d", heads, model.head_output_weights(layer))
            bias = model.head_output_bias(layer)
            mid = residual + output + (0 if bias is None else bias)
            base.mlp_residual.append(model.mlp_reads(residual, mid))
            base.mlps.append(mlp.expand(self.n_rows, -1))
            residual = mid + mlp
        per_layer = {
            name: self._per_layer(values)
            for name, values in vars(base).items()
            if name in ("mlp_residual", "heads", "raw", "mlps") and values
        }
        final = residual[self._last]
        return _BaseRun(**{**vars(base), **per_layer, "final": final})

    def _per_layer(self, rows: list[Tensor]) -> list[Tensor]:
        """Of the last layer only each example's last position, as nothing else is read there."""
        return [*rows[:-1], rows[-1][self._last]]

    def _last_rows(self) -> Int[Tensor, " batch"]:
        """The row of each example's last position."""
        first = torch.arange(self.n_examples, device=self.model.device) * self.n_positions
        return first + (self.n_positions - 1 if self._ends is None else self._ends)

    def _attention_ready(self, *projected: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values as batch head pos d_head, ready; keys and values with prefix."""
        model, shape = self.model, projected[0].shape[:2]
        queries, keys, values = (
            value.reshape(*shape, -1, model.d_head).transpose(1, 2) for value in projected
        )
        queries = model.ready(layer, "q", queries, self.start)
        keys = model.ready(layer, "k", keys, self.start)
        if self._prefix is not None:
            before = [part.expand(len(keys), -1, -1, -1) for part in self._prefix[layer]]
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        if keys.shape[1] != self.wiring.n_key_inputs:
            repeats = self.wiring.n_key_inputs // keys.shape[1]
            keys, values = (value.repeat_interleave(repeats, 1) for value in (keys, values))
        return queries, keys, values


def head_projections(model: Model, wiring: Wiring, lean: bool = False) -> Sequence[HeadProjections]:
    """Every layer's folded query, key and value matrices (3 d_model^2 numbers a layer).

    Where they are `lean`, or of weights that stay in a file, a layer's are made when they are asked
    for, so that no others are in memory.
    """
    found = _Projections(model, wiring)
    return found if lean or model.paging.active else list(found)


@dataclass(frozen=True)
class _Projections(Sequence[HeadProjections]):
    """Those of a layer, made anew whenever they are asked for."""

    model: Model
    wiring: Wiring

    def __len__(self) -> int:
        return self.model.n_layers

    def __getitem__(self, layer: Any) -> Any:
        if not 0 <= layer < len(self):
            raise IndexError(layer)
        return self.model.head_projections(layer, self.wiring.kv)


def _replaced(base: Tensor, heads: Tensor, values: Tensor, start: int) -> Tensor:
    """A copy of `base` (batch head pos d_head) with the given heads' positions from `start` on."""
    if len(heads) == 0:
        return base
    result = base.clone()
    result[:, heads, start:] = values
    return result
