"""How much each head, at the last token, attends to chosen spans of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from circuits.base.errors import OptionError
from circuits.facts.batches import batches_of
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.heads.weighted import LastAttention, shares, value_norms


@alone
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
        looked = LastAttention(model, range(model.n_layers))
        model.last_logits(tokens, looked.hooks)
        for layer in range(model.n_layers):
            pattern, values = looked.pattern(layer).float(), looked.values(layer).float()
            output = model.head_output_weights(layer).float()
            weighted = shares(pattern * value_norms(values, output), pattern)
            by_span = torch.einsum("bhp,bnp->bnh", weighted, masks)
            for index, name in enumerate(names):
                found[name][rows, layer] = by_span[:, index].cpu().numpy()
    return found
