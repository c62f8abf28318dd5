"""A circuit run by Hugging Face's own modules: every input from bookkeeping of its own.

For families with projections of their own for queries, keys and values, with and without a norm
after the attention. It takes nothing from this project but which place of the matrix is which.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from circuits.model.wiring import Wiring
from tests.plain_hf import PlainModel


class Base(NamedTuple):
    """What sources write where edges are cut, and what heads then read before their output matrix.

    Of shape batch pos source d_model and batch pos head d_head, a tensor a layer.
    """

    written: Tensor
    raw: list[Tensor]


def names(wiring: Wiring) -> list[str]:
    """The sources in order."""
    layers = range(wiring.n_layers)
    heads = [[f"a{at}.h{head}" for head in range(wiring.n_heads)] for at in layers]
    return ["input", *(name for at in layers for name in (*heads[at], f"m{at}"))]


def corrupted(plain: PlainModel, wiring: Wiring, tokens: Tensor) -> Base:
    """The base of patching: another prompt's run."""
    layers = range(wiring.n_layers)
    reads = [plain._input(tokens, plain.part(plain.parts.output, at)) for at in layers]
    raw = [each.view(*tokens.shape, wiring.n_heads, -1) for each in reads]
    return Base(torch.stack([plain.written(tokens, name) for name in names(wiring)], 2), raw)


def mean(plain: PlainModel, wiring: Wiring, runs: list[tuple[Tensor, int]]) -> Base:
    """The base of mean ablation: the mean over all positions of prompts, behind so many tokens."""
    found = [(corrupted(plain, wiring, tokens), skip) for tokens, skip in runs]

    def over(of: Callable[[Base], Tensor]) -> Tensor:
        return torch.cat([of(base)[:, skip:].flatten(0, 1) for base, skip in found]).mean(0)

    def raw(layer: int) -> Tensor:
        return over(lambda base: base.raw[layer])[None, None]

    return Base(over(lambda base: base.written)[None, None], [*map(raw, range(wiring.n_layers))])


def without_ends(wiring: Wiring, kept: np.ndarray) -> np.ndarray:
    """The kept edges but for those into heads and MLPs that lead nowhere."""
    kept, before = kept.copy(), None
    while before is None or (before != kept).any():
        before = kept.copy()
        for layer in range(wiring.n_layers):
            if not kept[wiring.mlp_src(layer)].any():
                kept[:, wiring.mlp_dst(layer)] = False
            start, keys = wiring.attn_dst(layer), wiring.n_key_inputs
            read = [kept[wiring.head_src(layer, head)].any() for head in range(wiring.n_heads)]
            for head, is_read in enumerate(read):
                if not is_read:
                    kept[:, start + head] = False
            for key, group in enumerate(np.array(read).reshape(keys, -1)):
                if not group.any():
                    kept[:, [start + wiring.n_heads + key + more for more in (0, keys)]] = False
    return kept


def run(plain: PlainModel, wiring: Wiring, kept: np.ndarray, tokens: Tensor, base: Base) -> Tensor:
    """Logits after the last token; a head that leads nowhere is the base's in the others' norm."""
    kept = without_ends(wiring, kept)
    edges, parts, width = torch.from_numpy(kept).double(), plain.parts, plain.d_head
    now = torch.zeros(*tokens.shape, wiring.n_src, base.written.shape[-1]).double()

    def read(dst: int, n: int) -> Tensor:
        """The residual stream before a destination, which `n` sources come before."""
        cut = base.written[:, :, :n].expand_as(now[:, :, :n])
        return torch.einsum("bpsd,s->bpd", now[:, :, :n] - cut, edges[:n, dst]) + cut.sum(2)

    def project(layer: int, slot: str) -> Callable[..., Tensor]:
        keys, n = wiring.n_key_inputs, wiring.head_src(layer)
        first = (
            wiring.attn_dst(layer) + {"q": 0, "k": wiring.n_heads, "v": wiring.n_heads + keys}[slot]
        )

        def replace(module: Any, inputs: Any, output: Tensor) -> Tensor:
            found = []
            for place in range(wiring.n_heads if slot == "q" else keys):
                stream = read(first + place, n)
                if parts.before is not None:
                    stream = plain.part(parts.before, layer)(stream)
                found.append((stream @ module.weight.T)[..., place * width : (place + 1) * width])
            return torch.cat(found, -1)

        return replace

    def attend(layer: int) -> Callable[..., None]:
        first = wiring.head_src(layer)

        def keep(module: Any, inputs: Any) -> None:
            raw = inputs[0].view(*tokens.shape, wiring.n_heads, width).clone()
            for head in range(wiring.n_heads):
                if not kept[first + head].any():
                    raw[:, :, head] = base.raw[layer][:, :, head]
            weight = module.weight.view(-1, wiring.n_heads, width)
            out = torch.einsum("bphe,dhe->bphd", raw, weight)
            if parts.after is not None:
                norm, total = plain.part(parts.after, layer), out.sum(2)
                eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
                gain = norm.forward(torch.ones_like(total)) * (1 + eps) ** 0.5
                scale = gain / (total.square().mean(-1, keepdim=True) + eps).sqrt()
                out = out * scale[:, :, None]
            now[:, :, first : first + wiring.n_heads] = out

        return keep

    def write(source: int) -> Callable[..., None]:
        return lambda module, inputs, output: now[:, :, source].copy_(output)

    def reads(dst: int, n: int) -> Callable[..., Any]:
        return lambda module, inputs: (read(dst, n), *inputs[1:])

    with ExitStack() as stack, torch.no_grad():
        hooks = [(plain.part(parts.embedding).register_forward_hook, write(0))]
        hooks.append(
            (
                plain.part(parts.final).register_forward_pre_hook,
                reads(wiring.logits_dst, wiring.n_src),
            )
        )
        for layer in range(wiring.n_layers):
            for slot in "qkv":
                module = plain.part(parts.queries.format(slot), layer)
                hooks.append((module.register_forward_hook, project(layer, slot)))
            output = plain.part(parts.output, layer)
            hooks.append((output.register_forward_pre_hook, attend(layer)))
            module = plain.part(parts.before_mlp or parts.mlp, layer)
            source = wiring.mlp_src(layer)
            into = reads(wiring.mlp_dst(layer), source)
            hooks.append((module.register_forward_pre_hook, into))
            hooks.append((plain.part(parts.written, layer).register_forward_hook, write(source)))
        for register, hook in hooks:
            stack.callback(register(hook).remove)
        return plain.run(tokens)
