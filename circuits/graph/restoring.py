"""Run an edited model with some edges carrying what they carried before the edit.

With `old` a source's output in the unedited model and `now` its output in the running, edited
model, a destination t reads

    x_t = residual of this run at t + sum over restored edges s -> t of (old_s - now_s).

Everything downstream follows: a source that reads a restored input writes anew, under the edited
weights. With no edge restored this is the edited model; with all of them every input is the
unedited model's, and so are the logits of an edit that leaves alone what is no source (position
embeddings, the attention's output bias, the final norm, the output matrix).

Several sets of edges run side by side as rows of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.graph.ablation import source_hooks
from circuits.graph.running import head_projections
from circuits.model import taps
from circuits.model.model import Model
from circuits.model.weights import HeadProjections
from circuits.model.wiring import Wiring

_ROW_BYTES = 256 * 2**20
"""Upper bound of the buffer that holds differences of sources."""


@torch.no_grad()
def source_outputs(
    model: Model, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch src pos d_model"]:
    """What every source of the wiring writes, at every position."""
    parts: dict[str, Tensor] = {}
    model.last_logits(tokens, source_hooks(model, parts.__setitem__))
    outputs = [parts["embedding"][:, None]]
    for layer in range(model.n_layers):
        heads = parts[f"heads.{layer}"].reshape(*tokens.shape, model.n_heads, model.d_head)
        weight = model.head_output_weights(layer)
        outputs.append(torch.einsum("bphe,hed->bhpd", heads, weight))
        outputs.append(parts[f"mlp.{layer}"][:, None])
    return torch.cat(outputs, 1)


@torch.no_grad()
def run_restored(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    old: Float[Tensor, "batch src pos d_model"],
    restored: Sequence[Bool[np.ndarray, " edge"]],
    wiring: Wiring | None = None,
) -> Float[Tensor, "set batch d_vocab"]:
    """Logits after the last position for each set of restored edges.

    `model` is the edited model, `old` comes from `source_outputs` of the unedited one.
    """
    wiring = wiring or model.wiring()
    if any(edges.shape != (wiring.n_edges,) for edges in restored):
        raise OptionError(f"a set of restored edges holds {wiring.n_edges} booleans, one an edge")
    projections = head_projections(model, wiring)
    rows = [(number, row) for number in range(len(restored)) for row in range(len(tokens))]
    used = len(np.unique(wiring.edge_src[np.any(list(restored), 0)]))
    step = max(1, _ROW_BYTES // (4 * max(used, 1) * tokens.shape[1] * model.d_model))
    results = []
    for first in range(0, len(rows), step):
        sets, places = zip(*rows[first : first + step], strict=True)
        index = torch.tensor(places, device=tokens.device)
        masks = np.stack([wiring.to_matrix(restored[number], False) for number in sets])
        kept = torch.from_numpy(masks).to(tokens.device)
        run = _RestoredRun(model, wiring, projections, tokens, old, index, kept)
        results.append(run.logits())
    return torch.cat(results).view(len(restored), len(tokens), -1)


class _RestoredRun:
    """One batch of rows, each with its own restored edges."""

    def __init__(
        self,
        model: Model,
        wiring: Wiring,
        projections: Sequence[HeadProjections],
        tokens: Int[Tensor, "batch pos"],
        old: Float[Tensor, "batch src pos d_model"],
        index: Int[Tensor, " row"],
        restored: Bool[Tensor, "row src dst"],
    ) -> None:
        """`index` says which prompt each row runs on."""
        self.model, self.wiring, self.projections = model, wiring, projections
        self.tokens, self.old, self.index, self.restored = tokens[index], old, index, restored
        # Only sources that some row restores are kept: their places, and old minus now.
        self.wanted = set(restored.any(2).any(0).nonzero()[:, 0].tolist())
        self.sources: list[int] = []
        self.differences: list[Tensor] = []

    def logits(self) -> Float[Tensor, "row d_vocab"]:
        """Logits after the last position."""
        model, wiring = self.model, self.wiring
        residual = self._start()
        self._note(0, model.embed(self.tokens))
        for layer in range(model.n_layers):
            heads = self._run_heads(layer, residual)
            for head in range(model.n_heads):
                self._note(wiring.head_src(layer, head), heads[:, head])
            bias = model.head_output_bias(layer)
            mid = residual + heads.sum(1) + (0 if bias is None else bias)
            dst = wiring.mlp_dst(layer)
            # In a parallel block no edge leads from the heads noted above to this MLP.
            reads = model.mlp_reads(residual, mid) + self._correction(dst, dst + 1)[:, 0]
            mlp = model.run_mlp(layer, reads, 0)
            self._note(wiring.mlp_src(layer), mlp)
            residual = mid + mlp
        last = wiring.logits_dst
        return model.unembed((residual + self._correction(last, last + 1)[:, 0])[:, -1])

    def _start(self) -> Float[Tensor, "row pos d_model"]:
        """The residual before the first layer, from the model itself: it knows its positions."""
        seen: list[Tensor] = []
        self.model.last_logits(
            self.tokens, [(taps.resid_pre(0), lambda value, hook: seen.append(value))]
        )
        return seen[0]

    def _run_heads(
        self, layer: int, residual: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row head pos d_model"]:
        model, wiring = self.model, self.wiring
        start, n_keys = wiring.attn_dst(layer), wiring.n_key_inputs
        inputs = residual[:, None] + self._correction(start, start + wiring.n_attn)
        projections = self.projections[layer]
        weight, offset = projections.weight, projections.offset
        values = torch.einsum("rtpd,ted->rtpe", model.normalise(inputs), weight)
        values = values + offset[None, :, None]
        queries, keys, values = values.split([model.n_heads, n_keys, n_keys], 1)
        keys, values = (x.repeat_interleave(wiring.queries_per_key, 1) for x in (keys, values))
        queries, keys = model.ready(layer, "q", queries), model.ready(layer, "k", keys)
        mask = model.mask(layer, 0, residual.shape[1])
        mixed = model.mix(layer, queries, keys, values, mask).transpose(0, 1)
        every = torch.arange(model.n_heads, device=mixed.device)
        mixed = model.patching.heads(layer, every, mixed, 0).transpose(0, 1)
        shares = model.share_heads(layer, mixed.transpose(1, 2)).transpose(1, 2)
        return torch.einsum("rhpe,hed->rhpd", shares, model.head_output_weights(layer))

    def _note(self, src: int, now: Float[Tensor, "row pos d_model"]) -> None:
        if src in self.wanted:
            self.sources.append(src)
            self.differences.append(self.old[self.index, src] - now)

    def _correction(self, start: int, stop: int) -> Float[Tensor, "row dst pos d_model"]:
        """What the restored edges into destinations change in their inputs."""
        if not self.sources:
            size = (len(self.index), stop - start, self.tokens.shape[1], self.model.d_model)
            return self.old.new_zeros(size)
        restored = self.restored[:, self.sources, start:stop].to(self.old.dtype)
        return torch.einsum("rspd,rst->rtpd", torch.stack(self.differences, 1), restored)
