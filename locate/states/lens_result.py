"""What the logit lens shows on one prompt, as a value; `locate.states.lens` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuits.base.display import Summary, named, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric, texts
from circuits.model.tokens import Prompt

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
