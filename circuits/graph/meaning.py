"""What a circuit's scores are, in words, for whoever reads a table or a picture of them."""

from __future__ import annotations

from circuits.base.choices import Ablation, Meaning
from circuits.graph.circuit import Circuit

REPLACED: dict[str, str] = {
    Ablation.PATCH: "the corrupted prompt's value",
    Ablation.ZERO: "nothing",
    Ablation.MEAN: "the mean over the prompts",
}
"""What a cut edge carries."""


def reading(found: Circuit) -> str:
    """What a score of the circuit says; empty where nobody knows.

    What takes the place of a cut edge is as the circuit's provenance has the ablation.
    """
    meaning = found.meaning
    if meaning == Meaning.UNKNOWN:
        return ""
    if meaning == Meaning.SIZE:
        return (
            "A score says how much the edge counts beside others and has no sign: which way the "
            "edge works is not known."
        )
    if meaning == Meaning.SIGN:
        return (
            "A score says how much the edge counts beside others, not in units of the metric: "
            "positive supports the answer."
        )
    instead = REPLACED.get(str(found.provenance.get("ablation", Ablation.PATCH)), "another value")
    return (
        f"A score estimates what the metric loses where this edge alone carries {instead}: "
        "positive supports the answer."
    )
