"""Scores of edges into queries and keys by attention that is computed anew.

A saturated softmax has no gradient, though another query or key would turn it. Here the source is
taken out of what a head's query or key reads, past the norm, the pattern A is computed anew, and

    score = sum over query and key positions of (A - A') . dm/dA.

What comes after the pattern is still an estimate, by whichever gradient dm/dA is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import UnsupportedArchitectureError
from circuits.model import taps
from circuits.model.model import Hook, Model
from locate.edges.eap import Runs
from locate.edges.rules import check_open_attention

CHUNK_BYTES = 32 * 2**20
"""Upper bound of each buffer that holds changed reads or patterns of several sources."""


def check_attention(model: Model) -> None:
    """UnsupportedArchitectureError where one head's query or key cannot be changed alone."""
    check_open_attention(model)
    if model.architecture.is_joint:
        raise UnsupportedArchitectureError(
            f"the heads of {model.name!r} share a norm of their queries and keys, so none can be "
            "changed alone; take eap-ig or gim, or atp-star with `attention` false"
        )


class CleanAttention:
    """What the clean run's attention reads: the residual stream, queries and keys as projected."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seen: dict[str, Tensor] = {}

    def hooks(self) -> list[Hook]:
        """Hooks that keep it."""

        def keep(name: str) -> Hook:
            return name, lambda value, hook: self.seen.__setitem__(name, value.detach())

        names = [taps.resid_pre(layer) for layer in range(self.model.n_layers)]
        for layer in range(self.model.n_layers):
            names += [taps.projection(layer, slot) for slot in "qk"]
        return [keep(name) for name in names]

    def ready(self, layer: int, slot: str, start: int) -> Float[Tensor, "batch head pos d_head"]:
        """A layer's queries or keys as attention compares them."""
        value = self.seen[taps.projection(layer, slot)]
        value = value.reshape(*value.shape[:2], -1, self.model.d_head).transpose(1, 2)
        return self.model.ready(layer, slot, value, start)


@torch.no_grad()
def replace_attention(
    runs: Runs,
    clean: CleanAttention,
    gradients: Sequence[Float[Tensor, "pass batch head query key"]],
    total: Float[np.ndarray, "pair edge"],
    absolute: bool,
) -> None:
    """Put scores of edges into queries and keys in the place of those by the gradient."""
    model, wiring = runs.model, runs.wiring
    places = wiring.to_matrix(np.arange(wiring.n_edges))
    rows = runs.clean.numel()
    sources = torch.empty(wiring.n_src, rows, model.d_model, dtype=model.dtype, device=model.device)
    sources[0] = runs.differences.values["embedding"].reshape(-1, model.d_model)
    for layer in range(model.n_layers):
        n_src, start = wiring.head_src(layer), wiring.attn_dst(layer)
        for slot in "qk":
            heads = wiring.n_heads if slot == "q" else wiring.n_key_inputs
            for part in _chunks(runs, n_src):
                changes = _pattern_changes(runs, clean, layer, slot, sources[part])
                scores = torch.einsum("sbhij,pbhij->psbh", changes, gradients[layer].float())
                scores = scores.unflatten(-1, (heads, -1)).sum(-1)
                scores = scores.abs().sum(0) if absolute else scores.sum(0)
                edges = places[part, start : start + heads]
                total[:, edges] = scores.transpose(0, 1).cpu().numpy()
            start += heads
        runs.differences.write_layer(layer, slice(None), sources, n_src)


def _chunks(runs: Runs, n_src: int) -> Iterator[slice]:
    """Sources, so many at a time that their buffers stay small."""
    model, (batch, length) = runs.model, runs.clean.shape
    seen = runs.shared + length
    size = 4 * batch * length * max(model.d_model, model.n_heads * (model.d_head + seen))
    step = max(1, CHUNK_BYTES // size)
    for first in range(0, n_src, step):
        yield slice(first, min(first + step, n_src))


def _pattern_changes(
    runs: Runs,
    clean: CleanAttention,
    layer: int,
    slot: str,
    sources: Float[Tensor, "src row d_model"],
) -> Float[Tensor, "src batch head query key"]:
    """Clean minus changed attention, for each source taken out of what queries or keys read."""
    model, shape = runs.model, runs.clean.shape
    projections = model.head_projections(layer, runs.wiring.kv)
    first = 0 if slot == "q" else model.n_heads
    part = slice(first, first + (model.n_heads if slot == "q" else runs.wiring.n_key_inputs))
    weight, offset = projections.weight[part], projections.offset[part]
    residual = clean.seen[taps.resid_pre(layer)].flatten(0, 1)
    hats = model.normalise(residual - sources)
    made = torch.einsum("srd,hed->srhe", hats, weight) + offset
    made = made.unflatten(1, shape).transpose(2, 3)  # src batch head pos d_head
    made = model.ready(layer, slot, made, runs.shared)
    queries, keys = (clean.ready(layer, each, runs.shared) for each in "qk")
    mask = model.mask(layer, runs.shared, shape[1])
    keys = _with_prefix(runs, layer, keys)
    before = model.compare(queries, _each_head(model, keys), mask)
    if slot == "q":
        queries = made
    else:
        keys = _with_prefix(runs, layer, made)
    after = model.compare(queries, _each_head(model, keys), mask)
    return (before - after).float()


def _with_prefix(
    runs: Runs, layer: int, keys: Float[Tensor, "*src batch head pos d_head"]
) -> Float[Tensor, "*src batch head key d_head"]:
    """Keys after those of the positions that both prompts share."""
    if runs.prefix is None:
        return keys
    before = runs.prefix.keys_values[layer][0]
    before = before.repeat_interleave(keys.shape[-3] // before.shape[1], 1)
    return torch.cat([before.expand(*keys.shape[:-2], -1, -1), keys], -2)


def _each_head(
    model: Model, keys: Float[Tensor, "*src batch kv key d_head"]
) -> Float[Tensor, "*src batch head key d_head"]:
    """Keys a query head."""
    return keys.repeat_interleave(model.n_heads // keys.shape[-3], -3)
