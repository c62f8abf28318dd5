"""Which pairs are one observation of a head: those that ask one fact, in whatever wording."""

from __future__ import annotations

from collections.abc import Sequence

from circuits.facts.pairs import TokenPair, clean_prompts
from circuits.graph.noise import numbered, sample_of


def observations(pairs: Sequence[TokenPair]) -> list[int]:
    """For each pair the number of the fact that it asks, or of a single fact of its clean prompt.

    What a head reads is that of the clean prompt, in which the partner has no part.
    """
    facts, n_facts = numbered(_facts(pairs))
    return clean_prompts(pairs) if n_facts == 1 else facts.tolist()


def counted(pairs: Sequence[TokenPair]) -> dict[str, int]:
    """How many pairs, clean prompts and facts there are, and whether with BOS, for a record."""
    return {
        "pairs": len(pairs),
        "prompts": len(set(clean_prompts(pairs))),
        "facts": len(set(_facts(pairs))),
        "bos": pairs[0].clean.bos,
    }


def _facts(pairs: Sequence[TokenPair]) -> tuple[object, ...]:
    return sample_of(pairs).facts
