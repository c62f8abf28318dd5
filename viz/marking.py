"""Whether a picture of two circuits marks what cannot be told from noise; the same everywhere.

Where the noise lets not one change be told, marking would hide which edges came and went and tell
nothing in its place: by default such a picture says which circuit an edge is in.
"""

from __future__ import annotations

from dataclasses import replace

from circuits.graph.comparison import Comparison
from circuits.graph.noise import Decision

MARKED = "A change that cannot be told from noise is drawn as “cannot tell”."
NONE_TOLD = (
    "No single change can be told from noise: lines say which circuit an edge is in, no more."
)
NOT_MARKED = "Lines say which circuit an edge is in, also where noise alone may have changed that."


def marked(comparison: Comparison, noise: bool | None = None) -> tuple[Comparison, str]:
    """The comparison as it is to be drawn, and the sentence that says how to read it.

    `noise` marks what cannot be told from noise, or does not; by default it is marked where at
    least one change is told from it. The comparison that is returned has `changes` only where it is
    marked; the sentence is empty where there is no noise floor.
    """
    if comparison.changes is None:
        return comparison, ""
    told = bool(comparison.changes.called(Decision.CHANGED).any())
    if told if noise is None else noise:
        return comparison, MARKED
    return replace(comparison, changes=None), NONE_TOLD if noise is None else NOT_MARKED
