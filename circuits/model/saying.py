"""What a model says after a prompt: its likeliest next tokens, and text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circuits.base.display import Shown, Summary, token_name


@dataclass(frozen=True)
class NextTokens(Shown):
    """The likeliest next tokens of a prompt, first the likeliest, with their probabilities."""

    prompt: str
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One record a token."""
        pairs = zip(self.tokens, self.probabilities, strict=True)
        return [{"token": token, "probability": share} for token, share in pairs]

    def summary(self) -> Summary:
        """The tokens and their probabilities."""
        pairs = zip(self.tokens, self.probabilities, strict=True)
        rows = [(token_name(token), f"{share:.4f}") for token, share in pairs]
        return Summary(self.prompt, {}, "", ("next token", "probability"), rows)
