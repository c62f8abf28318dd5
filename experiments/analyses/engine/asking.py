"""What a model says at the end of many prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.facts.batches import batches_of
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tokens import Prompt


@alone
@torch.no_grad()
def last_logits(
    model: Model, prompts: Sequence[Prompt], batch_size: int
) -> Float[Tensor, "prompt d_vocab"]:
    """The logits at each prompt's last token, on the CPU; prompts of one length go together."""
    found = torch.empty(len(prompts), model.d_vocab)
    for rows, tokens in batches_of(model, prompts, batch_size):
        found[rows] = model.last_logits(tokens).float().cpu()
    return found
