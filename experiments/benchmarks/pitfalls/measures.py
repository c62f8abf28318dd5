"""The measures of Li et al. (2024), as functions of probabilities.

p of a fact is the geometric mean of its object's token probabilities, averaged over the edit's
prompt and its paraphrases. θ0 is the unedited model, θ1 has the first edit, θ2 both. The code is
that of github.com/zjunlp/PitfallsKnowledgeEditing at 0cf7aca, `experiments/summarize.py`. Where it
computes something else than a measure's name says, or a definition fails, both numbers are here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CLAMP = -1.0
"""Least value of a relative loss in the code: no more than a doubling counts."""
MOST_LOST = 0.5
"""Share of other true objects beyond which a round trip has failed."""


def likelier(p: float, rival: float) -> float:
    """1[p > rival], NaN where one is not known.

    It is Succ of coverage (p of the second fact against that of the first, second edit alone), CS
    (the same after both edits), and each hop of Succ of a round trip. The
    explicit CS of reverse and composite cases sets answers to two questions against each other,
    which both could be likely; the implicit one, of the fact that the second edit implies for the
    first edit's relation, does so only for reverse ones.
    """
    return math.nan if math.isnan(p) or math.isnan(rival) else float(p > rival)


def relative_loss(before: float, after: float) -> float:
    """(before − after) / before: 1 is all lost, 0 nothing, below 0 a gain; NaN where before is 0.

    It is TFD as the code has it (of the tied fact, θ0 against θ2), and CM (of the first edit's
    fact, θ1 against θ2) without the code's clamp. It has no lower limit, so that one fact that was
    hardly known and became likelier can decide a mean of it.
    """
    return (before - after) / before if before > 0 else math.nan


def clamped_loss(before: float, after: float) -> float:
    """max((before − after) / before, −1): CM as the code has it.

    The code leaves TFD unclamped; clamped here it has a mean that no single fact decides.
    """
    loss = relative_loss(before, after)
    return loss if math.isnan(loss) else max(loss, CLAMP)


def distortion(before: Sequence[float], after: Sequence[float]) -> float:
    """D, the Jensen-Shannon divergence, in nats, 0 to ln 2.

    Between the probabilities of all true objects before and after the round trip, each divided by
    their sum; NaN where a sum is 0. It has no direction: a way back that makes the other true
    objects likelier than they ever were distorts as one that loses them.
    """
    p, q = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if not (p.sum() > 0 and q.sum() > 0):
        return math.nan
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return float((_divergence(p, middle) + _divergence(q, middle)) / 2)


def distortion_per_object(before: Sequence[float], after: Sequence[float]) -> float:
    """D / n as the code has it, n the number of true objects.

    Its `js_div` takes PyTorch's `batchmean` of a single distribution, which divides by its length;
    the more true objects, the smaller it comes out.
    """
    return distortion(before, after) / len(before)


def ignored(before: Sequence[float], after: Sequence[float]) -> float:
    """IR: the share of the other true objects that are less likely after the round trip.

    The smallest fall counts, so that a change that says nothing gives about 0.5, not 0.
    """
    return float(np.mean([old > new for old, new in zip(before, after, strict=True)]))


def failed(before: Sequence[float], after: Sequence[float]) -> float:
    """FR: 1[IR > 0.5]. With one other true object it is IR itself."""
    return float(ignored(before, after) > MOST_LOST)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum())
