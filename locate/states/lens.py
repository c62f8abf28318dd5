"""What the residual stream says about the answer, layer by layer: the logit lens.

It reads every layer's residual stream through the final norm and the output matrix
(nostalgebraist 2020). What each head and MLP adds to the last of these readings is in
`locate.states.attribution`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.display import Summary, named, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric, texts
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.metrics import rank
from circuits.model.model import Model
from circuits.model.tokens import Prompt, Span

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class LensResult(Result):
    """The logit lens on one prompt.

    State 0 is the embedding, state l + 1 the residual stream after layer l; the last state is the
    model's own output. `rank` counts the tokens above (0: none is); rows, tables and pictures have
    ranks from 1, the top. `positions` and `labels` name the other two axes; `best` holds the ids of
    each state's most likely tokens, likeliest first.
    """

    KIND = "lens"

    prompt: Prompt
    positions: Mapping[str, int]
    labels: Mapping[str, int]
    rank: Int[np.ndarray, "state position label"]
    probability: Float[np.ndarray, "state position label"]
    best: Int[np.ndarray, "state position top"]
    best_tokens: Mapping[int, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One record a state, position and label; layer -1 is the embedding, rank 1 the top."""
        return [
            {
                "layer": state - 1,
                "position": where,
                "label": label,
                "rank": int(self.rank[state, place, column]) + 1,
                "probability": float(self.probability[state, place, column]),
                "best": self.best_tokens[int(self.best[state, place, 0])],
            }
            for state in range(self.rank.shape[0])
            for place, where in enumerate(self.positions)
            for column, label in enumerate(self.labels)
        ]

    def summary(self) -> Summary:
        """Rank of what is followed and the most likely token, layer by layer, at one position."""
        place = next(iter(self.positions))
        rows = [
            (
                "embedding" if not state else str(state - 1),
                *(f"{rank + 1:,}" for rank in self.rank[state, 0].tolist()),
                token_name(self.best_tokens[int(self.best[state, 0, 0])]),
            )
            for state in range(self.rank.shape[0])
        ]
        return Summary(
            "Logit lens",
            {"prompt": self.prompt.text, **named(self.provenance, "model")},
            f"rank at {place!r} (1 is the top)",
            ("layer", *self.labels, "most likely"),
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """Rank and probability by layer; options are those of `viz.screen.lens_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers, for a file; `metadata` holds the rest."""
        return {"rank": self.rank, "probability": self.probability, "best": self.best}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "prompt": self.prompt.text,
            "ids": list(self.prompt.ids),
            "tokens": list(self.prompt.tokens),
            "offsets": [list(pair) for pair in self.prompt.offsets],
            "bos": self.prompt.bos,
            "positions": dict(self.positions),
            "labels": dict(self.labels),
            "best_tokens": [[index, text] for index, text in self.best_tokens.items()],
            "provenance": dict(self.provenance),
        }

    def heading(self) -> str:
        """The prompt."""
        return self.prompt.text

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> LensResult:
        """The inverse of `arrays` and `metadata`; OptionError where they are no logit lens."""
        try:
            found = cls(
                prompt=Prompt(
                    text=str(metadata["prompt"]),
                    ids=tuple(map(int, metadata["ids"])),
                    tokens=texts(metadata["tokens"]),
                    bos=bool(metadata["bos"]),
                    offsets=tuple((int(start), int(stop)) for start, stop in metadata["offsets"]),
                ),
                positions={str(k): int(at) for k, at in metadata["positions"].items()},
                labels={str(k): int(token) for k, token in metadata["labels"].items()},
                rank=numeric(arrays, "rank", "i", 3),
                probability=numeric(arrays, "probability", "f", 3),
                best=numeric(arrays, "best", "i", 3),
                best_tokens={int(index): str(text) for index, text in metadata["best_tokens"]},
                provenance=dict(metadata["provenance"]),
            )
        except (AttributeError, KeyError, ValueError, TypeError) as error:
            raise OptionError(f"these arrays are not a logit lens: {error}") from None
        shape, axes = found.rank.shape, (len(found.positions), len(found.labels))
        n_tokens = len(found.prompt.tokens)
        inside = all(0 <= place < n_tokens for place in found.positions.values())
        fits = all(shape) and shape[1:] == axes and found.probability.shape == shape and inside
        if not fits or not found.best.size or found.best.shape[:2] != shape[:2]:
            raise OptionError("these arrays are not a logit lens: their shapes do not fit")
        if not set(np.unique(found.best).tolist()) <= set(found.best_tokens):
            raise OptionError("these arrays are not a logit lens: tokens without a name")
        return found


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
