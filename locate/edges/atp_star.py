"""AtP*: edge attribution with attention computed anew and cancelled effects brought to light.

Kramár et al. 2024 (arXiv:2403.00745), for edges instead of nodes. Two corrections of EAP:

- *Attention.* A saturated softmax has no gradient, though another query or key would turn it. For
  an edge into a query or key the source is taken out of what that head reads, past the norm, and
  the pattern A is computed anew: score = sum over query and key positions of (A - A') . dm/dA. A
  key changes at all its positions at once, as the edge does.
- *GradDrop.* A direct and an indirect effect of opposite sign cancel in the gradient. For each of
  the L layers the backward pass is made once without that layer, past which the gradient then flows
  in the residual stream alone, and the score is sum over layers of |score| / (L - 1). A layer's own
  destinations have no score in its own pass. Such scores have no sign.

Cost: L clean and backward passes with GradDrop, one without; and for attention about as many
operations as d_head times the contraction of EAP for edges into queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import OptionError, UnsupportedArchitectureError
from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import EdgeScores
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Hook, Model
from locate.edges.eap import Runs, contract_runs
from locate.edges.passes import InputGradients
from locate.edges.rules import check_open_attention
from locate.search import Scoring

CHUNK_BYTES = 32 * 2**20
"""Upper bound of each buffer that holds changed reads or patterns of several sources."""


@alone
def attribute(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores of all edges by AtP*; arguments and errors are those of `locate.edges.eap.attribute`.

    UnsupportedArchitectureError for attention where one head's query changes the others' or where
    no hook reaches it, OptionError for GradDrop in a model of one layer.
    """
    options = scoring.options
    if options.attention:
        check_open_attention(model)
    if options.attention and model.architecture.is_joint:
        raise UnsupportedArchitectureError(
            f"the heads of {model.name!r} share a norm of their queries and keys, so none can be "
            "changed alone; take `attention` false, or gim"
        )
    if options.drop and model.n_layers == 1:
        raise OptionError("a model of one layer has none to leave out; take `drop` false")
    return contract_runs(
        model,
        pairs,
        scoring,
        _scores,
        batch_size=batch_size,
        keep_pairs=keep_pairs,
        progress=progress,
    )


def _scores(runs: Runs) -> Float[np.ndarray, "pair edge"]:
    """Each pair's scores, from one backward pass or from one a layer."""
    model, wiring, options = runs.model, runs.wiring, runs.scoring.options
    layers = range(model.n_layers)
    patterns = [taps.pattern(layer) for layer in layers] if options.attention else []
    passes = layers if options.drop else [None]
    clean = _Clean(model)
    hooks = [*runs.differences.hooks(1), *clean.hooks()]
    found: list[InputGradients] = []
    for left_out in passes:
        gradients = InputGradients(model, wiring, also=patterns)
        hooks += [] if left_out is None else _without(model, left_out)
        gradients.run(
            runs.clean,
            runs.metric(None),
            prefix=runs.prefix,
            extra_hooks=hooks,
            cuts=left_out is not None,
        )
        hooks = []
        if not found:
            runs.see_corrupted()
        found.append(gradients)
    size = np.abs if options.drop else np.asarray
    total = np.zeros((len(runs.batch), wiring.n_edges), dtype=np.float32)
    for gradients in found:
        total += size(runs.scores(gradients))
    if options.attention:
        by_pattern = [torch.stack([g.others[name] for g in found]) for name in patterns]
        _replace_attention(runs, clean, by_pattern, total, options.drop)
    return total / max(1, len(found) - 1)


def _without(model: Model, layer: int) -> list[Hook]:
    """Hooks that keep the gradient from a layer's attention and MLP."""
    points = (model.taps.attention_out(layer), model.taps.mlp_out(layer))
    return [(point, lambda value, hook: value.detach()) for point in points]


class _Clean:
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
def _replace_attention(
    runs: Runs,
    clean: _Clean,
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
    clean: _Clean,
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
