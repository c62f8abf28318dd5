"""How much each head, at the last token, attends to chosen spans of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.model import taps
from circuits.model.model import Hook, Model
from circuits.model.tokens import Prompt
from locate.states.transplant import batches_of


@torch.no_grad()
def attention_to_spans(
    model: Model,
    prompts: Sequence[Prompt],
    spans: Sequence[Mapping[str, Sequence[int]]],
    *,
    batch_size: int = 16,
) -> dict[str, Float[np.ndarray, "prompt layer head"]]:
    """Share of value-weighted attention at the last token that each named span gets, 0 to 1.

    `spans` holds the positions by name for each prompt, the same names for all; a position may be
    in several. Attention is weighted by the norm of what each position contributes (Kobayashi et
    al. 2020).
    """
    if len(spans) != len(prompts) or not prompts:
        raise OptionError("every prompt needs its spans")
    names = list(spans[0])
    shape = (len(prompts), model.n_layers, model.n_heads)
    found = {name: np.zeros(shape, dtype=np.float32) for name in names}
    for rows, tokens in batches_of(model, prompts, batch_size):
        masks = torch.zeros(len(rows), len(names), tokens.shape[1], device=model.device)
        for place, row in enumerate(rows):
            for index, name in enumerate(names):
                masks[place, index, list(spans[row][name])] = 1
        seen: dict[str, Tensor] = {}
        model.last_logits(tokens, _hooks(model, seen))
        for layer in range(model.n_layers):
            weighted = _weighted(model, layer, seen)
            shares = torch.einsum("bhp,bnp->bnh", weighted, masks)
            for index, name in enumerate(names):
                found[name][rows, layer] = shares[:, index].cpu().numpy()
    return found


def _weighted(
    model: Model, layer: int, seen: Mapping[str, Tensor]
) -> Float[Tensor, "batch head pos"]:
    """Attention times |v W_O|, as shares; a head that writes exactly nothing keeps its pattern."""
    pattern = seen[f"pattern.{layer}"].float()
    values = seen[f"values.{layer}"].float().transpose(1, 2)
    values = values.repeat_interleave(model.n_heads // values.shape[1], 1)
    output = model.head_output_weights(layer).float()
    gram = torch.einsum("hed,hfd->hef", output, output)
    norms = torch.einsum("bhpe,hef,bhpf->bhp", values, gram, values).clamp_min(0).sqrt()
    weighted = pattern * norms
    total = weighted.sum(-1, keepdim=True)
    return torch.where(total > 0, weighted / total, pattern)


def _hooks(model: Model, seen: dict[str, Tensor]) -> list[Hook]:
    def keep(name: str, part: Any) -> Any:
        return lambda value, hook: seen.__setitem__(name, part(value))

    hooks: list[Hook] = []
    for layer in range(model.n_layers):
        hooks.append((taps.pattern(layer), keep(f"pattern.{layer}", lambda x: x[:, :, -1])))
        hooks.append((taps.projection(layer, "v"), keep(f"values.{layer}", lambda x: x)))
    return hooks
