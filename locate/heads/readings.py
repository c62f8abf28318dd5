"""What heads do at the last token, as a value; `locate.heads.attention` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float


class Region(StrEnum):
    """Which positions of the prompt a share of a head's attention, or of its output, belongs to.

    SUBJECT: the subject span, also where it ends the prompt. BOS: the first token, where there is
    one. SELF: the last token. EXAMPLES: what stands before the question, demonstrations or the
    beginning of a chat. RELATION: all others, the words that say what is asked.
    """

    SUBJECT = "subject"
    RELATION = "relation"
    BOS = "bos"
    SELF = "self"
    EXAMPLES = "examples"


REGIONS = tuple(Region)


@dataclass(frozen=True, eq=False)
class HeadReadings:
    """Each head at the last token of each clean prompt, split by `REGIONS` on the last axis.

    `attention` is the plain pattern, `weighted` the pattern times the norm of v_j W_O; both sum to
    1 over regions. `answer_gain` is what a region's part of the output adds, in logits, to the
    answer over the mean of the relation's other objects (what belongs to this subject);
    `range_gain` to the other objects' mean over the mean of all tokens that are no objects (what
    has the right type). The answer is in neither side of `range_gain`, so that a head which only
    tells the answer from its rivals has none. `written` holds the tokens that each head raises
    most, averaged over pairs.
    """

    attention: Float[np.ndarray, "pair layer head region"]
    weighted: Float[np.ndarray, "pair layer head region"]
    answer_gain: Float[np.ndarray, "pair layer head region"]
    range_gain: Float[np.ndarray, "pair layer head region"]
    written: tuple[tuple[tuple[int, ...], ...], ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """All per-pair numbers, for a file."""
        names = ("attention", "weighted", "answer_gain", "range_gain")
        return {name: getattr(self, name) for name in names}
