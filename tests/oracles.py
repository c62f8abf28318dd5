"""Plain, slow, independent implementations that the fast ones are tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import KeyValue, Metric, MetricLike
from circuits.facts.batches import PairBatch
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import SourceConstants
from circuits.graph.circuit import Circuit
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from circuits.model.wiring import Wiring


def plain_eap(
    model: Model,
    pairs: Sequence[TokenPair],
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    points: Sequence[float] = (1.0,),
    hooks: Sequence[tuple[str, Any]] = (),
    by_position: bool = False,
) -> Float[Tensor, "*pos src dst"]:
    """EAP by the bridge's own flags and backward hooks, one example at a time.

    `points` are fractions of the way from the corrupted to the clean embedding; (1.0,) is EAP.
    `hooks` are in the runs with gradients. `by_position` has each position's part, for pairs of one
    length.
    The wiring is the bridge's: one key and one value input a key-value head.
    """
    bridge, wiring = model.bridge, model.wiring()
    flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
    for flag in flags:
        getattr(bridge, f"set_{flag}")(True)
    try:
        parts = [_plain_example(model, wiring, pair, metric, points, hooks) for pair in pairs]
    finally:
        for flag in flags:
            getattr(bridge, f"set_{flag}")(False)
    return sum(part if by_position else part.sum(0) for part in parts) / len(pairs)


def _plain_example(
    model: Model,
    wiring: Wiring,
    pair: TokenPair,
    metric: MetricLike,
    points: Sequence[float],
    hooks: Sequence[tuple[str, Any]],
) -> Tensor:
    bridge = model.bridge
    clean, corrupted = torch.tensor([pair.clean.ids]), torch.tensor([pair.corrupted.ids])
    answer, foil = torch.tensor([pair.answer]), torch.tensor([pair.foil])
    difference = torch.zeros(clean.shape[1], wiring.n_src, model.d_model)
    scores = torch.zeros(clean.shape[1], wiring.n_src, wiring.n_dst)

    def writer(where: slice | int, sign: int):
        def hook(value: Tensor, hook: object) -> None:
            difference[:, where] += sign * value[0].detach()

        return hook

    def writers(sign: int) -> list:
        hooks = [("embed.hook_out", writer(0, sign))]
        for layer in range(model.n_layers):
            first = wiring.head_src(layer)
            heads = slice(first, first + model.n_heads)
            hooks.append((f"blocks.{layer}.attn.hook_result", writer(heads, sign)))
            hooks.append((f"blocks.{layer}.mlp.hook_out", writer(wiring.mlp_src(layer), sign)))
        return hooks

    def reader(n_src: int, where: slice):
        def hook(gradient: Tensor, hook: object) -> None:
            gradient = gradient[0].detach()
            if gradient.ndim == 2:
                gradient = gradient.unsqueeze(1)
            part = torch.einsum("psd,ptd->pst", difference[:, :n_src], gradient)
            scores[:, :n_src, where] += part

        return hook

    readers = []
    for layer in range(model.n_layers):
        n_src, start = wiring.head_src(layer), wiring.attn_dst(layer)
        for slot, width in (("q", model.n_heads), ("k", model.n_kv_heads), ("v", model.n_kv_heads)):
            where = slice(start, start + width)
            readers.append((f"blocks.{layer}.attn.hook_{slot}_input", reader(n_src, where)))
            start += width
        mlp = slice(wiring.mlp_dst(layer), wiring.mlp_dst(layer) + 1)
        readers.append((f"blocks.{layer}.hook_mlp_in", reader(wiring.mlp_src(layer), mlp)))
    logits = slice(wiring.logits_dst, None)
    readers.append((f"blocks.{model.n_layers - 1}.hook_out", reader(wiring.n_src, logits)))

    with torch.no_grad():
        bridge.run_with_hooks(corrupted, fwd_hooks=writers(-1))
        clean_logits = bridge.run_with_hooks(clean, fwd_hooks=writers(1))[:, -1]
        start, end = bridge.embed(corrupted), bridge.embed(clean)
    for point in points:
        embedding = (start + point * (end - start)).detach().requires_grad_(True)
        replace = [("embed.hook_out", lambda value, hook, point=embedding: point)]
        with bridge.hooks(fwd_hooks=[*replace, *hooks], bwd_hooks=readers):
            out = bridge(clean)[:, -1]
            evaluate_metric(metric, out, answer, foil, clean_logits).sum().backward()
    return scores / len(points)


@torch.no_grad()
def plain_circuit_run(
    model: Model,
    batch: PairBatch,
    circuit: Circuit,
    constants: SourceConstants | None = None,
    spans: np.ndarray | None = None,
) -> Float[Tensor, "batch d_vocab"]:
    """Run a circuit node by node with the bridge's split inputs, keeping every node's output.

    Every destination's input is replaced by its clean-run value minus, for each edge that is not
    kept, the source's current output plus what it is replaced with. Independent of the cached,
    sparse computation in `circuits.graph.running`. `spans` says which span each position is in.
    """
    bridge, wiring = model.bridge, circuit.wiring
    kept = torch.from_numpy(circuit.matrix())
    if spans is None:
        kept, spans = kept[None], np.zeros(batch.clean.shape, dtype=int)
    kept = kept[torch.from_numpy(spans)]
    shape = (*batch.clean.shape, wiring.n_src, model.d_model)
    replaced = torch.zeros(shape)
    now = torch.zeros(shape)

    def put(store: Tensor, where: int | slice):
        def hook(value: Tensor, hook: object) -> None:
            store[:, :, where] = value

        return hook

    def saving(store: Tensor) -> list:
        hooks = [("embed.hook_out", put(store, 0))]
        for layer in range(model.n_layers):
            first = wiring.head_src(layer)
            heads = slice(first, first + model.n_heads)
            hooks.append((f"blocks.{layer}.attn.hook_result", put(store, heads)))
            hooks.append((f"blocks.{layer}.mlp.hook_out", put(store, wiring.mlp_src(layer))))
        return hooks

    def missing(dst: int, n_src: int) -> Tensor:
        """What the replaced edges into a destination change in its input."""
        gone = (~kept[:, :, :n_src, dst]).to(now.dtype)
        return torch.einsum("bpsd,bps->bpd", replaced[:, :, :n_src] - now[:, :, :n_src], gone)

    repeats = model.n_heads // model.n_kv_heads

    def edit_slot(layer: int, slot: str):
        n_src, start = wiring.head_src(layer), wiring.attn_dst(layer)
        start += {"q": 0, "k": model.n_heads, "v": model.n_heads + wiring.n_key_inputs}[slot]

        def hook(value: Tensor, hook: object) -> Tensor:
            return torch.stack(
                [value[:, :, i] + missing(start + i, n_src) for i in range(value.shape[2])], 2
            )

        return hook

    def edit(dst: int, n_src: int):
        return lambda value, hook: value + missing(dst, n_src)

    flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
    for flag in flags:
        getattr(bridge, f"set_{flag}")(True)
    try:
        if constants is None:
            bridge.run_with_hooks(batch.corrupted, fwd_hooks=saving(replaced))
        else:
            replaced[:, :, 0] = constants.embedding
            for layer in range(model.n_layers):
                first = wiring.head_src(layer)
                heads = torch.einsum(
                    "he,hed->hd", constants.heads[layer], model.head_output_weights(layer)
                )
                replaced[:, :, first : first + model.n_heads] = heads
                replaced[:, :, wiring.mlp_src(layer)] = constants.mlps[layer]
        hooks = saving(now)
        for layer in range(model.n_layers):
            block = f"blocks.{layer}"
            if repeats > 1 and wiring.kv is KeyValue.PER_QUERY_HEAD:
                hooks += _per_query_hooks(model, wiring, layer, missing)
            else:
                for slot in "qkv":
                    hooks.append((f"{block}.attn.hook_{slot}_input", edit_slot(layer, slot)))
            mlp = edit(wiring.mlp_dst(layer), wiring.mlp_src(layer))
            hooks.append((f"{block}.hook_mlp_in", mlp))
        last = f"blocks.{model.n_layers - 1}.hook_out"
        hooks.append((last, edit(wiring.logits_dst, wiring.n_src)))
        return bridge.run_with_hooks(batch.clean, fwd_hooks=hooks)[:, -1]
    finally:
        for flag in flags:
            getattr(bridge, f"set_{flag}")(False)


def _per_query_hooks(model: Model, wiring: Wiring, layer: int, missing) -> list:
    """Compute each query head's attention from its own key and value input, one head at a time."""
    block = model.bridge.blocks[layer]
    seen: dict[str, Tensor] = {}
    n_src, start = wiring.head_src(layer), wiring.attn_dst(layer)
    size = model.n_heads // model.n_kv_heads

    def remember(name: str):
        return lambda value, hook: seen.__setitem__(name, value)

    def project(slot: str, head: int, index: int) -> Tensor:
        residual = seen["resid"] + missing(start + index, n_src)
        weight = getattr(block.attn, f"W_{slot.upper()}")[head]
        value = block.ln1.original_component(residual) @ weight
        if slot == "v":
            return value
        cos, sin = seen["cos"], seen["sin"]
        half = value.shape[-1] // 2
        turned = torch.cat([-value[..., half:], value[..., :half]], -1)
        return value * cos + turned * sin

    def attend(value: Tensor, hook: object) -> Tensor:
        heads = []
        for head in range(model.n_heads):
            query = project("q", head, head)
            key = project("k", head // size, model.n_heads + head)
            content = project("v", head // size, 2 * model.n_heads + head)
            scores = query @ key.transpose(1, 2) * model.d_head**-0.5
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            heads.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ content)
        return torch.stack(heads, 2)

    prefix = f"blocks.{layer}"
    return [
        (f"{prefix}.hook_in", remember("resid")),
        ("rotary_emb.hook_cos", remember("cos")),
        ("rotary_emb.hook_sin", remember("sin")),
        (f"{prefix}.attn.o.hook_in", attend),
    ]
