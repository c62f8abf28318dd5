"""Silence whole sets of heads: what a model answers when they write nothing of their own.

A silenced head writes a constant at every position: nothing (ZERO), or its mean over the given
prompts' positions (MEAN), which keeps what it always says. Single heads at the last token alone are
silenced by `locate.heads.role_checks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.facts.batches import batches_of
from circuits.graph.ablation import SourceConstants
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.metrics import answer_probability, rank
from circuits.model.model import Hook, Model
from circuits.model.tokens import Prompt
from locate.states.transplant import RUNS_AT_ONCE, Replies

Head = tuple[int, int]
"""Layer and number of a head."""


@alone
@torch.no_grad()
def without_heads(
    model: Model,
    prompts: Sequence[Prompt],
    sets: Sequence[Sequence[Head]],
    answers: Sequence[int],
    constants: SourceConstants,
    *,
    batch_size: int = 16,
) -> Replies:
    """Ask every prompt once a set, with the set's heads silenced at every position.

    An empty set is the model itself. `constants` are what silenced heads write
    (`circuits.graph.ablation.source_constants`).
    """
    if len(prompts) != len(answers):
        raise OptionError(f"{len(prompts)} prompts need as many answers, not {len(answers)}")
    silent = _masks(model, sets)
    shape = (len(sets), len(prompts))
    ranks, shares = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
    for rows, tokens in batches_of(model, prompts, len(prompts)):
        asked = np.array([(run, at) for run in range(len(sets)) for at in range(len(rows))])
        for start in range(0, len(asked), RUNS_AT_ONCE * batch_size):
            runs, places = asked[start : start + RUNS_AT_ONCE * batch_size].T
            here = np.array(rows)[places]
            hooks = _hooks(model, silent[runs], constants)
            picked = torch.from_numpy(places).to(model.device)
            logits = model.last_logits(tokens[picked], hooks).float()
            wanted = torch.tensor([answers[row] for row in here], device=model.device)
            ranks[runs, here] = rank(logits, wanted).cpu().numpy()
            shares[runs, here] = answer_probability(logits, wanted).cpu().numpy()
    return Replies(ranks, shares)


def _masks(model: Model, sets: Sequence[Sequence[Head]]) -> Bool[np.ndarray, "run layer head"]:
    masks = np.zeros((len(sets), model.n_layers, model.n_heads), dtype=bool)
    for run, heads in enumerate(sets):
        for layer, head in heads:
            if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
                raise OptionError(
                    f"there is no head a{layer}.h{head} in a model of {model.wiring().describe()}"
                )
            masks[run, layer, head] = True
    return masks


def _hooks(
    model: Model, silent: Bool[np.ndarray, "batch layer head"], constants: SourceConstants
) -> list[Hook]:
    """Hooks only in layers where a head is silenced in some row."""

    def silencing(mask: Bool[Tensor, "batch head"], constant: Float[Tensor, "head d_head"]) -> Any:
        def replace(value: Tensor, hook: Any) -> Tensor:
            heads = value.reshape(*value.shape[:2], *constant.shape)
            return torch.where(mask[:, None, :, None], constant, heads).reshape(value.shape)

        return replace

    hooks: list[Hook] = []
    for layer in np.flatnonzero(silent.any((0, 2))).tolist():
        mask = torch.from_numpy(silent[:, layer]).to(model.device)
        hook = silencing(mask, constants.raw_heads[layer])
        hooks.append((taps.head_outputs(layer), hook))
    return hooks
