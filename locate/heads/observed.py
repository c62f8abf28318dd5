"""Which pairs are one observation of a head: those that ask one fact, in whatever wording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuits.facts.pairs import TokenPair, clean_prompts
from circuits.graph.noise import numbered, sample_of
from locate.states.observed import recorded


def observations(pairs: Sequence[TokenPair]) -> list[int]:
    """For each pair the number of the fact that it asks, or of a single fact of its clean prompt.

    What a head reads is that of the clean prompt, in which the partner has no part.
    """
    facts, n_facts = numbered(_facts(pairs))
    return clean_prompts(pairs) if n_facts == 1 else facts.tolist()


def of_clean_prompts(pairs: Sequence[TokenPair]) -> dict[str, Any]:
    """The observations for provenance, where pairs share one."""
    return recorded(observations(pairs), "prompts" if len(set(_facts(pairs))) == 1 else "facts")


def of_pairs(pairs: Sequence[TokenPair]) -> dict[str, Any]:
    """The same of what the partner has a part in: a single fact's partners are observations."""
    sample = sample_of(pairs)
    return recorded(sample.groups.tolist(), sample.drawn)


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
