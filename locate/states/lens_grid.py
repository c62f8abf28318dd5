"""The logit lens over a whole prompt: what every layer says at every token, in words.

Each state of the residual stream is read through the final norm and the output matrix
(nostalgebraist 2020), as `locate.states.lens` does for a few positions and some tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from circuits.base.errors import OptionError
from circuits.model.holding import alone
from circuits.model.metrics import rank
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.states.lens import residual_states
from locate.states.lens_result import LensResult


@dataclass(frozen=True, eq=False)
class LensGrid:
    """The likeliest tokens of every state at every position, and where some tokens stand there.

    State 0 is the embedding, state l + 1 the residual stream after layer l. `best` are ids,
    likeliest first, with their `shares` (probabilities) and `names`; `rank` (0 is the top) and
    `probability` are those of the tokens in `labels`, whose words are `words_of`.
    """

    prompt: Prompt
    labels: Mapping[str, int]
    best: Int[np.ndarray, "state position top"]
    shares: Float[np.ndarray, "state position top"]
    names: Mapping[int, str]
    rank: Int[np.ndarray, "state position label"]
    probability: Float[np.ndarray, "state position label"]
    words_of: Mapping[str, str]

    def words(self, state: int, position: int) -> list[tuple[str, float]]:
        """The vocabulary projection of one state: its likeliest tokens with their probabilities."""
        ids, shares = self.best[state, position], self.shares[state, position]
        return [
            (self.names[int(token)], float(share)) for token, share in zip(ids, shares, strict=True)
        ]

    def at(self, position: int) -> LensResult:
        """The lens at one position, as it is stored and spoken of."""
        here = [position]
        return LensResult(
            prompt=self.prompt,
            positions={"last" if position == len(self.prompt) - 1 else str(position): position},
            labels=dict(self.labels),
            rank=self.rank[:, here],
            probability=self.probability[:, here],
            best=self.best[:, here],
            best_tokens=dict(self.names),
            provenance={"followed": dict(self.words_of)},
        )

    def rows(self) -> list[dict[str, Any]]:
        """One record a state and position; layer -1 is the embedding, rank 1 the top."""
        return [
            {
                "layer": state - 1,
                "position": position,
                "token": token,
                "likeliest": self.names[int(self.best[state, position, 0])],
                "probability": float(self.shares[state, position, 0]),
                **{
                    f"rank of the {label}": int(self.rank[state, position, column]) + 1
                    for column, label in enumerate(self.labels)
                },
            }
            for state in range(len(self.best))
            for position, token in enumerate(self.prompt.tokens)
        ]


@alone
@torch.no_grad()
def lens_grid(
    model: Model, prompt: Prompt, labels: Mapping[str, int] | None = None, top: int = 10
) -> LensGrid:
    """Read every state of a prompt; `labels` name tokens to be followed beside the likeliest.

    OptionError for a token that the model does not have, or where nothing is to be read.
    """
    labels = dict(labels or {})
    for label, token in labels.items():
        if not 0 <= token < model.d_vocab:
            raise OptionError(
                f"{label!r}: there is no token {token}, only 0 to {model.d_vocab - 1}"
            )
    if top < 1:
        raise OptionError(f"ask for at least 1 token, not {top}")
    ids = torch.tensor([prompt.ids], device=model.device)
    places = torch.arange(len(prompt), device=model.device)[None]
    best, shares, ranks, followed = [], [], [], []
    columns = list(labels.values())
    for state in residual_states(model, ids, places):  # one at a time: a vocabulary is large
        logits = model.unembed(state)[0].float()
        probability = logits.softmax(-1)
        values, tokens = probability.topk(min(top, model.d_vocab), -1)
        wanted = [torch.full_like(logits[:, 0], token, dtype=torch.long) for token in columns]
        best.append(tokens.cpu().numpy())
        shares.append(values.cpu().numpy())
        ranks.append(
            np.stack([rank(logits, each).cpu().numpy() for each in wanted], -1)
            if wanted
            else np.zeros((len(logits), 0), dtype=np.int64)
        )
        followed.append(probability[:, columns].cpu().numpy())
    chosen = np.stack(best)
    return LensGrid(
        prompt=prompt,
        labels=labels,
        best=chosen,
        shares=np.stack(shares),
        names={int(i): model.tokenizer.token_string(int(i)) for i in np.unique(chosen)},
        rank=np.stack(ranks),
        probability=np.stack(followed),
        words_of={
            label: model.tokenizer.token_string(token).strip() for label, token in labels.items()
        },
    )
