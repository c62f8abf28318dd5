"""What causal tracing of one prompt found, as a value; `locate.states.tracing` makes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuits.base.choices import TraceKind
from circuits.base.display import Summary, named, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric, texts
from circuits.model.tokens import Span

if TYPE_CHECKING:
    import plotly.graph_objects as go

ALL_KINDS = tuple(TraceKind)
SHOWN = 8
"""Effects in a summary."""


@dataclass(frozen=True, eq=False)
class Trace(Result):
    """Answer probabilities of one prompt with each state restored.

    `probabilities[kind]` is indexed by layer, position and noise sample; the layer of a window is
    its centre. `answer_token` is the answer's first token, the one that counts.
    """

    KIND = "trace"

    prompt: str
    tokens: tuple[str, ...]
    subject: Span
    answer: str
    answer_token: int
    p_clean: float
    p_corrupted_samples: Float[np.ndarray, " sample"]
    probabilities: Mapping[TraceKind, Float[np.ndarray, "layer pos sample"]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[TraceKind, ...]:
        """The kinds of state that were restored."""
        return tuple(self.probabilities)

    @property
    def p_corrupted(self) -> float:
        """Mean probability of the answer over the noise samples, nothing restored."""
        return float(self.p_corrupted_samples.mean())

    @property
    def total_effect(self) -> float:
        """What the noise costs: `p_clean` - `p_corrupted`."""
        return self.p_clean - self.p_corrupted

    def probability(self, kind: TraceKind | str) -> Float[np.ndarray, "layer pos"]:
        """Mean probability of the answer over the noise samples with each state restored."""
        return self._of(kind).mean(-1)

    def effect(self, kind: TraceKind | str) -> Float[np.ndarray, "layer pos"]:
        """Indirect effect: what restoring each state gains; positive supports the answer."""
        return self.probability(kind) - self.p_corrupted

    def standard_error(self, kind: TraceKind | str) -> Float[np.ndarray, "layer pos"]:
        """Standard error of the indirect effect over noise samples; NaN for a single sample."""
        gains = self._of(kind) - self.p_corrupted_samples
        count = gains.shape[-1]
        if count < 2:
            return np.full(gains.shape[:-1], np.nan)
        return gains.std(-1, ddof=1) / math.sqrt(count)

    def rows(self) -> list[dict[str, Any]]:
        """One record a state, for tables: kind, layer, position, token, probability, effect."""
        records = []
        for kind in self.kinds:
            probability, error = self.probability(kind), self.standard_error(kind)
            for layer, position in np.ndindex(*probability.shape):
                value = float(probability[layer, position])
                records.append(
                    {
                        "kind": str(kind),
                        "layer": layer,
                        "position": position,
                        "token": self.tokens[position],
                        "in_subject": self.subject.start <= position < self.subject.stop,
                        "probability": value,
                        "effect": value - self.p_corrupted,
                        "standard_error": float(error[layer, position]),
                    }
                )
        return records

    def summary(self) -> Summary:
        """The probabilities, and the largest indirect effects."""
        facts = {
            "prompt": self.prompt,
            "subject": "".join(self.tokens[self.subject.start : self.subject.stop]).strip(),
            "answer": self.answer,
            **named(self.provenance, "model", "noise", "samples", "window"),
            "p clean": f"{self.p_clean:.3f}",
            "p corrupted": f"{self.p_corrupted:.3f}",
        }
        largest = sorted(self.rows(), key=lambda row: -row["effect"])[:SHOWN]
        rows = [
            (
                TraceKind(row["kind"]).label,
                str(row["layer"]),
                token_name(row["token"]),
                f"{row['effect']:+.3f}",
            )
            for row in largest
        ]
        header = ("state", "layer", "token", "effect")
        return Summary("Causal trace", facts, "largest indirect effects", header, rows)

    def plot(self, **options: Any) -> go.Figure:
        """Heat maps by kind of state; options are those of `viz.screen.trace_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers, for a file; `metadata` holds the rest."""
        kinds = {f"probability.{kind}": values for kind, values in self.probabilities.items()}
        return {"p_corrupted": self.p_corrupted_samples, **kinds}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "subject": [self.subject.start, self.subject.stop],
            "answer": self.answer,
            "answer_token": self.answer_token,
            "p_clean": self.p_clean,
            "provenance": dict(self.provenance),
        }

    def heading(self) -> str:
        """The prompt."""
        return self.prompt

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Trace:
        """The inverse of `arrays` and `metadata`; OptionError where they do not make a trace."""
        try:
            kinds = {
                TraceKind(name.removeprefix("probability.")): numeric(arrays, name, "f", 3)
                for name in arrays
                if name != "p_corrupted"
            }
            kinds = {kind: kinds[kind] for kind in ALL_KINDS if kind in kinds}
            found = cls(
                prompt=str(metadata["prompt"]),
                tokens=texts(metadata["tokens"]),
                subject=Span(*map(int, metadata["subject"])),
                answer=str(metadata["answer"]),
                answer_token=int(metadata["answer_token"]),
                p_clean=float(metadata["p_clean"]),
                p_corrupted_samples=numeric(arrays, "p_corrupted", "f", 1),
                probabilities=kinds,
                provenance=dict(metadata["provenance"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise OptionError(f"these arrays are not a trace: {error}") from None
        expected = (len(found.tokens), len(found.p_corrupted_samples))
        shapes = {values.shape for values in kinds.values()}
        inside = 0 <= found.subject.start < found.subject.stop <= len(found.tokens)
        if len(shapes) != 1 or shapes.pop()[1:] != expected or not (inside and expected[1]):
            raise OptionError("these arrays are not a trace: their shapes do not fit the prompt")
        return found

    def _of(self, kind: TraceKind | str) -> Float[np.ndarray, "layer pos sample"]:
        kind = TraceKind.of(kind)
        if kind not in self.probabilities:
            raise OptionError(f"kind {kind!s} was not traced, only {', '.join(self.kinds)}")
        return self.probabilities[kind]
