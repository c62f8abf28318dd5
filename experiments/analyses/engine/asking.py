"""What a model says at the end of many prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.facts.batches import groups_for, padded
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tokens import Prompt


@alone
@torch.no_grad()
def last_logits(
    model: Model, prompts: Sequence[Prompt], batch_size: int
) -> Float[Tensor, "prompt d_vocab"]:
    """The logits at each prompt's last token, on the CPU."""
    found, lengths = torch.empty(len(prompts), model.d_vocab), [len(each) for each in prompts]
    for rows in groups_for(lengths, [0] * len(lengths), batch_size, model):
        tokens, ends = padded([prompts[row].ids for row in rows], model.device)
        found[rows] = model.last_logits(tokens, ends=ends).float().cpu()
    return found
