"""What the residual stream says about the answer, layer by layer: the logit lens.

It reads every layer's residual stream through the final norm and the output matrix
(nostalgebraist 2020). What each head and MLP adds to the last of these readings is in
`locate.states.attribution`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.metrics import rank
from circuits.model.model import Model
from circuits.model.tokens import Prompt, Span
from locate.states.lens_result import LensResult


def lens_positions(prompt: Prompt, subject: str | Span | None = None) -> dict[str, int]:
    """The positions that are usually looked at: the last token and the subject's last token."""
    positions = {"last": len(prompt) - 1}
    if subject is not None:
        span = subject if isinstance(subject, Span) else prompt.span_of(subject)
        positions["subject last"] = span.last
    return positions


@alone
@torch.no_grad()
def residual_states(
    model: Model, tokens: Int[Tensor, "batch pos"], places: Int[Tensor, "batch place"]
) -> list[Float[Tensor, "batch place d_model"]]:
    """The embedding and the residual stream after every layer, at places of each prompt."""
    states: list[Tensor] = []
    rows = torch.arange(len(tokens), device=tokens.device)[:, None]

    def read(value: Tensor, hook: Any) -> None:
        states.append(value[rows, places])

    names = [taps.resid_pre(layer) for layer in range(model.n_layers)]
    names.append(taps.resid_post(model.n_layers - 1))
    model.last_logits(tokens, [(name, read) for name in names])
    return states


@alone
@torch.no_grad()
def logit_lens(
    model: Model,
    prompt: Prompt,
    tokens: Mapping[str, int],
    positions: Mapping[str, int] | None = None,
    top: int = 5,
) -> LensResult:
    """Rank (0: no token is above) and probability of some tokens at every layer of some positions.

    `tokens` maps labels (answer, foil, ...) to token ids; `positions` maps names to positions,
    by default the last token alone.
    """
    positions = lens_positions(prompt) if positions is None else positions
    _check_lens(model, prompt, tokens, positions, top)
    ids = torch.tensor([prompt.ids], device=model.device)
    places = torch.tensor([list(positions.values())], device=model.device)
    states = residual_states(model, ids, places)
    logits = model.unembed(torch.stack(states)[:, 0]).float()
    probability = logits.softmax(-1)
    columns = list(tokens.values())
    ranks = [
        rank(logits, torch.full(logits.shape[:2], token).to(logits.device)) for token in columns
    ]
    best = logits.topk(min(top, logits.shape[-1]), -1).indices.cpu().numpy()
    return LensResult(
        prompt=prompt,
        positions=dict(positions),
        labels=dict(tokens),
        rank=torch.stack(ranks, -1).cpu().numpy(),
        probability=probability[..., columns].cpu().numpy(),
        best=best,
        best_tokens={int(i): model.tokenizer.token_string(int(i)) for i in np.unique(best)},
        provenance={**model.provenance, "method": "logit lens", "bos": prompt.bos},
    )


def lens_on_prompt(
    model: Model, text: str, words: Mapping[str, str | None], bos: bool | None = None
) -> LensResult:
    """The lens on a prompt: words by label, at the last token and at that of a `subject` in it."""
    prompt = model.tokenizer.encode(text, bos)
    followed = {label: word for label, word in words.items() if word is not None}
    tokens = {label: model.tokenizer.first_token(text, word) for label, word in followed.items()}
    found = logit_lens(model, prompt, tokens, lens_positions(prompt, followed.get("subject")))
    return replace(found, provenance={**found.provenance, "followed": followed})


def _check_lens(
    model: Model,
    prompt: Prompt,
    tokens: Mapping[str, int],
    positions: Mapping[str, int],
    top: int,
) -> None:
    if not tokens:
        raise OptionError("the logit lens needs at least one token to follow")
    if top < 1:
        raise OptionError(f"ask for at least 1 token, not {top}")
    for label, token in tokens.items():
        if not 0 <= token < model.d_vocab:
            raise OptionError(
                f"{label!r}: there is no token {token}, only 0 to {model.d_vocab - 1}"
            )
    if not positions:
        raise OptionError("the logit lens needs at least one position to look at")
    for name, position in positions.items():
        if not 0 <= position < len(prompt):
            raise OptionError(
                f"position {name!r} is {position}, but the prompt has {len(prompt)} tokens"
            )
