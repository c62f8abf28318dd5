"""Answers of several tokens, each token asked for after those before it.

The log-probability of a whole answer is the sum over its tokens of log p(token | prompt, the tokens
before it). A position sees what is before it only, so that each term is what a prompt of its own
asks: the prompt with the answer's beginning after it. A pair becomes one such part a token, both
prompts with the same tokens of the clean prompt's answer; what a method gives of the parts is added
up to the pair. No method knows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from circuits.base.choices import Metric, MetricLike
from circuits.base.errors import PromptError
from circuits.facts.pairs import TokenPair
from circuits.model.tokens import Tokenizer


@dataclass(frozen=True)
class Parts:
    """Pairs as they are run, and where in them each pair begins; one a pair for most metrics."""

    pairs: tuple[TokenPair, ...]
    first: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, pairs: Sequence[TokenPair], metric: MetricLike) -> Parts:
        """One part a pair, or one a token of its answer where the metric is of whole answers.

        PromptError for a pair that such a metric cannot be asked of.
        """
        if not Metric.of(metric).whole:
            return cls(tuple(pairs), tuple(range(len(pairs))))
        found: list[TokenPair] = []
        first = []
        for pair in pairs:
            first.append(len(found))
            found += _parts(tokenizer, pair)
        return cls(tuple(found), tuple(first))

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def per_pair(self) -> float:
        """Parts a pair, on the mean."""
        return len(self.pairs) / len(self.first)

    def sums(self, values: np.ndarray, axis: int = -1) -> np.ndarray:
        """Each pair's sum over its parts."""
        if len(self.first) == len(self.pairs):
            return values
        return np.asarray(np.add.reduceat(values, self.first, axis))

    def all(self, values: np.ndarray, axis: int = -1) -> np.ndarray:
        """Whether a thing holds for all parts of a pair."""
        if len(self.first) == len(self.pairs):
            return values
        return np.asarray(np.logical_and.reduceat(values, self.first, axis))


def _parts(tokenizer: Tokenizer, pair: TokenPair) -> list[TokenPair]:
    text = pair.text
    if pair.answers:
        raise PromptError(
            f"{text.clean!r} has a set of answers, which have no common likelihood of several "
            f"tokens; take another metric than {Metric.ANSWER_LOG_PROBABILITY}"
        )
    answer: tuple[int, ...] = (pair.answer,)
    if not text.tokens:
        answer = tokenizer.continuation(text.clean, text.answer, text.exact)
    # Without what answer and foil begin with, which stands at the prompts' end already.
    sides = [tokenizer.encode(each, pair.clean.bos) for each in (text.clean, text.corrupted)]
    found = []
    for step, token in enumerate(answer):
        clean, corrupted = (tokenizer.followed(side, answer[:step]) for side in sides)
        found.append(replace(pair, clean=clean, corrupted=corrupted, answer=token))
    return found
