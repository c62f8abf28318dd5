"""Induction scores: does a head look for what followed the same token before?

On random tokens that occur twice in the same order, an induction head attends from each token of
the second copy to the token after its first occurrence (Elhage et al. 2021, Olsson et al. 2022).
The score is that attention, averaged over the second copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Model


@alone
@torch.no_grad()
def induction_scores(
    model: Model, *, length: int = 24, sequences: int = 8, seed: int = 0
) -> Float[np.ndarray, "layer head"]:
    """Each head's mean attention to the token after the earlier occurrence, 0 to 1.

    Sequences hold `length` distinct random tokens without special ones, twice, after a BOS where
    the model uses one. OptionError where they do not fit the model.
    """
    ids = repeated_tokens(model, length, sequences, seed)
    start = ids.shape[1] - 2 * length
    queries = torch.arange(start + length, ids.shape[1])
    keys = queries - length + 1
    scores = np.empty((model.n_layers, model.n_heads))

    def reader(layer: int) -> Any:
        def read(pattern: Tensor, hook: Any) -> None:
            seen = pattern[:, :, queries, keys].float().mean((0, 2))
            scores[layer] = seen.cpu().numpy()

        return read

    hooks = [(taps.pattern(at), reader(at)) for at in range(model.n_layers)]
    model.last_logits(ids, hooks)
    return scores


def even_score(model: Model, length: int = 24) -> float:
    """The score of a head that attends evenly to all earlier tokens and itself: chance."""
    front = 1 if model.tokenizer.use_bos(None) else 0
    queries = np.arange(front + length, front + 2 * length)
    return float((1 / (queries + 1)).mean())


def repeated_tokens(model: Model, length: int, sequences: int, seed: int) -> Any:
    """Token ids of shape (sequences, positions): BOS, random tokens, the same tokens again."""
    hf = model.tokenizer.hf
    special = set(hf.all_special_ids)
    pool = np.array([token for token in range(len(hf)) if token not in special])
    if length < 2 or length > len(pool):
        raise OptionError(f"a sequence needs 2 to {len(pool)} distinct tokens, not {length}")
    front = [hf.bos_token_id] if model.tokenizer.use_bos(None) else []
    model.check_length(len(front) + 2 * length)
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(sequences):
        tokens = generator.choice(pool, length, replace=False).tolist()
        rows.append([*front, *tokens, *tokens])
    return torch.tensor(rows, device=model.device)
