"""What heads attend to and write on single prompts, as a value; `prompt_heads` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuits.base.display import Shown, Summary, named, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric, texts
from circuits.model.tokens import Span

if TYPE_CHECKING:
    import plotly.graph_objects as go

# As many prompts as fit a glance; a head that behaves differently on each has no simple role.

N_WRITTEN = 10


Written = tuple[tuple[str, float], ...]
"""Tokens with what is added to their logits, over the mean of all tokens."""


@dataclass(frozen=True, eq=False)
class PromptHeads(Shown):
    """Some heads at the last token of one prompt.

    `attention` is the pattern's last row, `weighted` the same times the norm of what is read there
    (|v_j W_O|, Kobayashi et al. 2020), as a share; both sum to 1. `raised` and `lowered` hold, a
    head, the tokens whose logits it adds most to and takes most from, as direct logit attribution
    has it. Of the answer its first token counts, `answer_token`. `roles` are the labels of those
    that have one.
    """

    prompt: str
    tokens: tuple[str, ...]
    subject: Span | None
    answer: str
    answer_token: str
    heads: tuple[str, ...]
    attention: Float[np.ndarray, "head pos"]
    weighted: Float[np.ndarray, "head pos"]
    raised: tuple[Written, ...]
    lowered: tuple[Written, ...]
    roles: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.heads), len(self.tokens))
        if self.attention.shape != shape or self.weighted.shape != shape:
            raise OptionError(f"the attention of {shape[0]} heads to {shape[1]} tokens is missing")
        if not len(self.raised) == len(self.lowered) == len(self.heads):
            raise OptionError("the tokens that some of the heads write are missing")

    def place(self, head: str) -> int:
        """Where a head stands in the arrays; OptionError where it is not among them."""
        if head not in self.heads:
            raise OptionError(f"head {head!r} was not read, only {', '.join(self.heads)}")
        return self.heads.index(head)

    def summary(self) -> Summary:
        """Each head's most attended token and the tokens it raises."""
        rows = []
        for place, head in enumerate(self.heads):
            looked = int(self.weighted[place].argmax())
            share = f"{self.weighted[place, looked]:.2f}"
            words = " ".join(token_name(word) for word, _ in self.raised[place][:5])
            seen = token_name(self.tokens[looked])
            rows.append((head, self.roles.get(head, ""), seen, share, words))
        return Summary(
            f"{len(self.heads)} head{'s' * (len(self.heads) != 1)} at the last token",
            {"prompt": self.prompt, "answer": self.answer, **named(self.provenance, "model")},
            "most attended token, its share of value-weighted attention, tokens raised most",
            ("head", "role", "looks at", "share", "writes"),
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """Attention by head and token; options are those of `viz.screen.attention_figure`."""
        return HeadsOnPrompts((self,)).plot(**options)

    def heading(self) -> str:
        """The prompt."""
        return self.prompt

    def rows(self) -> list[dict[str, Any]]:
        """One record a head: where it looks most, with its share, and what it raises."""
        found = []
        for head, shares, raised in zip(self.heads, self.weighted, self.raised, strict=True):
            best = int(shares.argmax())
            found.append(
                {
                    "prompt": self.prompt,
                    "head": head,
                    "looks at": token_name(self.tokens[best]),
                    "share": float(shares[best]),
                    "raises": " ".join(token_name(text) for text, _ in raised[:4]),
                }
            )
        return found


@dataclass(frozen=True, eq=False)
class HeadsOnPrompts(Result):
    """Heads on one or several prompts, as a file holds them."""

    KIND = "heads on prompts"

    prompts: tuple[PromptHeads, ...]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """That of the first prompt's."""
        return self.prompts[0].provenance if self.prompts else {}

    def parts(self) -> tuple[PromptHeads, ...]:
        """The prompts: each has its own picture."""
        return self.prompts

    def rows(self) -> list[dict[str, Any]]:
        """One record a prompt and head."""
        return [row for each in self.prompts for row in each.rows()]

    def summary(self) -> Summary:
        """The first prompt's, and how many there are."""
        if not self.prompts:
            return Summary("Heads on no prompt")
        first = self.prompts[0].summary()
        return replace(first, facts={**first.facts, "prompts": str(len(self.prompts))})

    def plot(self, **options: Any) -> go.Figure:
        """Attention by head and token on the first prompt, as `viz.screen.attention_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """Attention, plain and weighted, by the place of the prompt."""
        return {
            f"{place}.{name}": getattr(each, name)
            for place, each in enumerate(self.prompts)
            for name in ("attention", "weighted")
        }

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, a record a prompt."""
        names = ("attention", "weighted")
        records = []
        for each in self.prompts:
            record = {name: value for name, value in vars(each).items() if name not in names}
            span = each.subject
            record["subject"] = None if span is None else [span.start, span.stop]
            records.append(record)
        return {"prompts": records}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> HeadsOnPrompts:
        """The inverse of `arrays` and `metadata`; OptionError where sizes do not fit."""
        return cls(
            tuple(
                PromptHeads(
                    prompt=str(record["prompt"]),
                    tokens=texts(record["tokens"]),
                    subject=None if record["subject"] is None else _span(record["subject"]),
                    answer=str(record["answer"]),
                    answer_token=str(record["answer_token"]),
                    heads=texts(record["heads"]),
                    attention=numeric(arrays, f"{place}.attention", "f", 2),
                    weighted=numeric(arrays, f"{place}.weighted", "f", 2),
                    raised=tuple(map(_written, record["raised"])),
                    lowered=tuple(map(_written, record["lowered"])),
                    roles={str(head): str(label) for head, label in record["roles"].items()},
                    provenance=dict(record["provenance"]),
                )
                for place, record in enumerate(metadata["prompts"])
            )
        )


def _written(pairs: Sequence[Sequence[Any]]) -> Written:
    return tuple((str(word), float(logit)) for word, logit in pairs)


def _span(ends: Sequence[Any]) -> Span:
    start, stop = map(int, ends)
    return Span(start, stop)
