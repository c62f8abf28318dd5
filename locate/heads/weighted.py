"""Attention at the last token, as it is and weighted by what each position contributes.

A position's weight is its attention times the norm of v W_O, the vector that the head reads there
(Kobayashi et al. 2020), as a share of the head's total.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Hook, Model


class LastAttention:
    """What `hooks` see of some layers in a run: each layer's attention and what it reads.

    `ends` are the positions of the rows' last tokens, where rows are padded behind.
    """

    def __init__(
        self, model: Model, layers: Iterable[int], ends: Int[Tensor, " batch"] | None = None
    ) -> None:
        self.model, self.ends, self.seen = model, ends, dict[str, Tensor]()
        self.hooks: list[Hook] = []
        for layer in layers:
            self.hooks.append((taps.pattern(layer), self._keep_last))
            self.hooks.append((taps.projection(layer, "v"), self._keep))
            if scale := model.taps.head_scale(layer):
                self.hooks.append((scale, self._keep))

    def _keep(self, value: Tensor, hook: object) -> None:
        self.seen[str(getattr(hook, "name", hook))] = value

    def _keep_last(self, value: Tensor, hook: object) -> None:
        self._keep(self.at_end(value.transpose(1, 2)), hook)

    def at_end(self, value: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch ..."]:
        """What stands at each row's last token."""
        if self.ends is None:
            return value[:, -1]
        return value[torch.arange(len(value), device=value.device), self.ends]

    def pattern(self, layer: int) -> Float[Tensor, "batch head pos"]:
        """Attention from the last token."""
        return self.seen[taps.pattern(layer)]

    def values(self, layer: int) -> Float[Tensor, "batch head pos d_head"]:
        """What each query head reads; heads that share a key-value head read the same.

        Where a norm follows the attention, it is divided by what that norm divides by at the last
        token, so that `head_output_weights` gives what reaches the residual stream.
        """
        values = self.seen[taps.projection(layer, "v")]
        values = values.reshape(*values.shape[:2], -1, self.model.d_head).transpose(1, 2)
        if scale := self.model.taps.head_scale(layer):
            values = values / self.at_end(self.seen[scale])[:, None, None]
        return values.repeat_interleave(self.model.n_heads // values.shape[1], 1)


def value_norms(
    values: Float[Tensor, "batch head pos d_head"], output: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "batch head pos"]:
    """|v W_O| through the head's Gram matrix: no copy of the values in d_model space."""
    gram = torch.einsum("hed,hfd->hef", output, output)
    return torch.einsum("bhpe,hef,bhpf->bhp", values, gram, values).clamp_min(0).sqrt()


def shares(weighted: Tensor, plain: Tensor) -> Tensor:
    """Parts of 1 along the last axis; a head that writes exactly nothing keeps its attention."""
    total = weighted.sum(-1, keepdim=True)
    return torch.where(total > 0, weighted / total, plain)


@alone
@torch.no_grad()
def read_sites(
    model: Model, tokens: Int[Tensor, "one pos"], sites: Sequence[tuple[int, int]]
) -> Float[Tensor, "two site pos"]:
    """Attention of single heads (layer, head) on one prompt: plain, then weighted."""
    looked = LastAttention(model, sorted({layer for layer, _ in sites}))
    model.last_logits(tokens, looked.hooks)
    found = torch.zeros(2, len(sites), tokens.shape[1])
    for place, (layer, head) in enumerate(sites):
        plain, values = (
            looked.pattern(layer)[0, head].float(),
            looked.values(layer)[0, head].float(),
        )
        read = values @ model.head_output_weights(layer)[head].float()
        found[0, place], found[1, place] = plain, shares(plain * read.norm(dim=-1), plain)
    return found


@alone
@torch.no_grad()
def head_pattern(
    model: Model, tokens: Int[Tensor, "one pos"], layer: int, head: int
) -> Float[Tensor, "query key"]:
    """One head's attention on one prompt, from every position to every other; rows sum to 1."""
    seen: list[Tensor] = []

    def keep(value: Tensor, hook: object) -> None:
        seen.append(value[0, head].float().cpu())

    model.last_logits(tokens, [(taps.pattern(layer), keep)])
    return seen[0]
