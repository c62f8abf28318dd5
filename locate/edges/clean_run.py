"""A clean run from which single edges can be taken: what `locate.edges.exact` patches.

Where the heads of a layer share a norm, on their queries and keys or after the attention, a change
of one of them changes what all of them write, and all are recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.facts.batches import PairBatch
from circuits.graph.ablation import SourceConstants
from circuits.model import taps
from circuits.model.model import Hook, Model
from circuits.model.weights import HeadProjections
from circuits.model.wiring import Wiring
from locate.edges.passes import SourceDifferences


def stage_of(wiring: Wiring, dst: Int[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
    """4 * layer + (0: queries, 1: keys, 2: values, 3: MLP); the logits stand for a last layer."""
    layer, place = np.divmod(dst, wiring.n_attn + 1)
    ends = np.cumsum([wiring.n_heads, wiring.n_key_inputs, wiring.n_key_inputs])
    return 4 * layer + np.searchsorted(ends, place, side="right")


class CleanRun:
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
        layers, length = range(model.n_layers), batch.clean.shape[1]
        self.masks = [model.mask(layer, self.start, length - self.start) for layer in layers]
        seen: dict[str, Tensor] = {}
        differences = SourceDifferences(model)
        hooks = [*differences.hooks(1), *_keep(seen, self._names())]
        self.logits = model.last_logits(batch.clean[:, self.start :], hooks, self.prefix)
        if constants is None:
            corrupted = batch.corrupted[:, self.start :]
            model.last_logits(corrupted, differences.hooks(-1), self.prefix)
        else:
            differences.subtract(constants)
        self.resid_pre = [seen[taps.resid_pre(layer)] for layer in layers]
        written = [seen[model.taps.attention_out(layer)] for layer in layers]
        self.resid_mid = [x + y for x, y in zip(self.resid_pre, written, strict=True)]
        self.final = seen[taps.resid_post(model.n_layers - 1)][:, -1]
        self.attention = [self._attention(seen, layer) for layer in layers]
        self.differences = self._all_differences(differences)
        self._projections: tuple[int, HeadProjections] | None = None

    def _names(self) -> list[str]:
        names = []
        for layer in range(self.model.n_layers):
            names += [taps.resid_pre(layer), self.model.taps.attention_out(layer)]
            names += [taps.head_outputs(layer), *taps.projections(layer)]
        return [*names, taps.resid_post(self.model.n_layers - 1)]

    def _attention(self, seen: dict[str, Tensor], layer: int) -> _Attention:
        def heads_first(name: str) -> Tensor:
            value = seen[name]
            return value.view(*value.shape[:2], -1, self.model.d_head).permute(2, 0, 1, 3)

        queries, keys, values = (heads_first(name) for name in taps.projections(layer))
        return _Attention(
            projected=(queries, keys),
            queries=self._ready(layer, "q", queries, self.start),
            keys=self._with_prefix(layer, 0, self._ready(layer, "k", keys, self.start)),
            values=self._with_prefix(layer, 1, values),
            outputs=heads_first(taps.head_outputs(layer)),
        )

    def _ready(
        self, layer: int, slot: str, value: Float[Tensor, "head *rest pos d_head"], start: int
    ) -> Float[Tensor, "head *rest pos d_head"]:
        """`Model.ready` of heads that stand first."""
        return self.model.ready(layer, slot, value.movedim(0, -3), start).movedim(-3, 0)

    def _with_prefix(self, layer: int, which: int, value: Tensor, at: Any = slice(None)) -> Tensor:
        """Keys (0) or values (1), each row's own key-value head `at`, after the prefix's."""
        if self.prefix is None:
            return value
        before = self.prefix.keys_values[layer][which].transpose(0, 1)[at]
        return torch.cat([before.expand(*value.shape[:-2], -1, -1), value], -2)

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
        layer, slot = divmod(int(stage_of(self.wiring, dst[:1])[0]), 4)
        if layer == self.model.n_layers:
            return self.model.unembed(self.final - self.differences[sources, :, -1])
        at = self._read(layer)
        before, mid = self.resid_pre[layer][:, at], self.resid_mid[layer][:, at]
        if slot == 3:
            changed = self.model.mlp_reads(before, mid) - self.differences[sources][:, :, at]
            residual = mid + self._run_mlp(layer, changed)
        else:
            places = torch.from_numpy(dst - self.wiring.attn_dst(layer)).to(device)
            mid = mid + self._attention_change(layer, slot, places, sources)
            reads = self.model.mlp_reads(before.expand_as(mid), mid)
            residual = mid + self._run_mlp(layer, reads)
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
        if model.architecture.is_joint and slot != 2:
            replaced = self._together(layer, slot, heads, replaced)
            heads = torch.arange(model.n_heads, device=places.device).expand(len(places), -1)
        else:
            if slot != 2:
                ready = model.ready(layer, taps.SLOTS[slot], replaced, self._last(replaced))
                replaced = ready
            replaced = replaced[:, None].expand(-1, heads.shape[1], -1, -1, -1)
        shared = heads // (model.n_heads // model.n_kv_heads)
        queries, keys, values = clean.queries[heads], clean.keys[shared], clean.values[shared]
        if slot == 0:
            queries = replaced
        else:
            replaced = self._with_prefix(layer, slot - 1, replaced, shared)
            keys, values = (replaced, values) if slot == 1 else (keys, replaced)
        mixed = model.mix(
            layer,
            queries[..., at, :].flatten(0, 1),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            self.masks[layer][at],
        )
        mixed = mixed.view(*heads.shape, *mixed.shape[1:])
        mixed = model.patching.heads(layer, heads, mixed, self._last(mixed))
        if model.architecture.normed_after:
            return self._written_change(layer, heads, mixed)
        change = mixed - clean.outputs[heads][..., at, :]
        change = change.permute(0, 2, 3, 1, 4)  # edge batch pos head d_head
        output = model.head_output_weights(layer)[heads].flatten(1, 2)
        written = change.reshape(len(heads), -1, output.shape[1]) @ output
        return written.view(*change.shape[:3], model.d_model)

    def _together(
        self,
        layer: int,
        slot: int,
        heads: Int[Tensor, "edge width"],
        replaced: Float[Tensor, "edge batch pos d_head"],
    ) -> Float[Tensor, "edge head batch pos d_head"]:
        """All heads' queries or keys, ready, where the replaced ones share a norm with all."""
        projected = self.attention[layer].projected[slot]
        repeats = self.model.n_heads // len(projected)
        everyone = projected.repeat_interleave(repeats, 0)[:, :, -replaced.shape[2] :]
        everyone = everyone.expand(len(heads), -1, -1, -1, -1).clone()
        rows = torch.arange(len(heads), device=heads.device)[:, None]
        everyone[rows, heads] = replaced[:, None]
        start = self._last(replaced)
        name = taps.SLOTS[slot]
        return self._ready(layer, name, everyone.movedim(1, 0), start).movedim(0, 1)

    def _written_change(
        self,
        layer: int,
        heads: Int[Tensor, "edge width"],
        mixed: Float[Tensor, "edge width batch pos d_head"],
    ) -> Float[Tensor, "edge batch pos d_model"]:
        """New minus clean contribution of all heads, some of which read anew, past their norm."""
        model, at = self.model, self._read(layer)
        everyone = self.attention[layer].outputs[..., at, :].expand(len(heads), -1, -1, -1, -1)
        everyone = everyone.clone()
        everyone[torch.arange(len(heads), device=heads.device)[:, None], heads] = mixed
        shares = model.share_heads(layer, everyone.permute(0, 2, 3, 1, 4))
        written = torch.einsum("...he,hed->...d", shares, model.head_output_weights(layer))
        clean = self.resid_mid[layer] - self.resid_pre[layer]
        return written - clean[:, at]

    def _last(self, value: Float[Tensor, "*rest pos d_head"]) -> int:
        """Position of the first of values that end where the prompts do."""
        return self.start + self.resid_pre[0].shape[1] - value.shape[-2]

    def _project(
        self, layer: int, slot: int, places: Int[Tensor, " edge"], sources: Int[Tensor, " edge"]
    ) -> Float[Tensor, "edge batch pos d_head"]:
        """Each destination's query, key or value, as projected, without its source."""
        at = self._read(layer) if slot == 0 else slice(None)
        if self._projections is None or self._projections[0] != layer:
            self._projections = (layer, self.model.head_projections(layer, self.wiring.kv))
        weight, offset = self._projections[1].weight, self._projections[1].offset
        residual = self.resid_pre[layer][:, at] - self.differences[sources][:, :, at]
        hats = self.model.normalise(residual)
        weight = weight[places].transpose(1, 2)
        projected = torch.baddbmm(offset[places, None], hats.flatten(1, 2), weight)
        return projected.view(*hats.shape[:3], -1)

    def _run_mlp(self, layer: int, resid_mid: Tensor) -> Tensor:
        rows = resid_mid.flatten(0, 1).contiguous()
        return self.model.run_mlp(layer, rows, self._last(rows)).view(resid_mid.shape)

    def _run_from(
        self, layer: int, residual: Float[Tensor, "edge batch pos d_model"]
    ) -> Float[Tensor, "edge batch d_vocab"]:
        """Layers from `layer` on, final norm and output matrix."""
        n_edges, batch = residual.shape[:2]
        rows = residual.flatten(0, 1)
        for upper in range(layer, self.model.n_layers):
            earlier = self._earlier(upper, n_edges, batch)
            rows = self.model.run_layer(upper, rows, earlier, self._read(upper))
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
    """What a layer's heads computed in the clean run: head batch pos d_head each.

    `projected` are queries and keys before their norm and rotation, without the prefix.
    """

    projected: tuple[Tensor, Tensor]
    queries: Tensor
    keys: Tensor
    values: Tensor
    outputs: Tensor


def _keep(seen: dict[str, Tensor], names: Sequence[str]) -> list[Hook]:
    return [(name, lambda value, hook, at=name: seen.__setitem__(at, value)) for name in names]
