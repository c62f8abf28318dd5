"""How much a result depends on which examples were drawn: the bootstrap over facts.

Facts are drawn with replacement, each with all pairs that ask it; a resample's edge scores are
weighted means of the kept scores a pair, so that resampling is a matrix product and needs no model.
`groups` says which pairs are drawn together (`circuits.graph.noise.Sample.groups`); without it
every pair is drawn by itself. Repeating the selection on each resample tells which edges a circuit
owes to its method and which to its sample (Méloux et al. 2025, on the variance of EAP-IG).
Intervals of evaluation metrics are in `circuits.base.intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int

from circuits.base.errors import OptionError
from circuits.base.intervals import shares_drawn
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores

CORE = 0.95
NOISE = 0.5
MAX_RESAMPLES = 100_000
_CHUNK_BYTES = 64 * 2**20


class Stability(StrEnum):
    """CORE: in nearly every resample. CONTINGENT: in most. NOISE: in fewer than half."""

    CORE = "core"
    CONTINGENT = "contingent"
    NOISE = "noise"


@dataclass(frozen=True, eq=False)
class ScoreIntervals:
    """Percentile bootstrap interval of each edge's score, in units of the metric."""

    low: Float[np.ndarray, " edge"]
    high: Float[np.ndarray, " edge"]


def bootstrap_scores(
    scores: EdgeScores,
    resamples: int,
    seed: int,
    level: float = 0.95,
    groups: Int[np.ndarray, " pair"] | None = None,
) -> ScoreIntervals:
    """The interval that holds `level` of the resampled scores, edge by edge."""
    _check_level(level)
    weights = _weights(scores, resamples, seed, groups)
    per_pair = _per_pair(scores)
    bounds = np.empty((2, per_pair.shape[1]), dtype=per_pair.dtype)
    tail = (1 - level) / 2
    for part in _chunks(per_pair.shape[1], resamples * per_pair.itemsize):
        means = weights @ per_pair[:, part]
        bounds[:, part] = np.quantile(means, [tail, 1 - tail], axis=0, overwrite_input=True)
    return ScoreIntervals(bounds[0], bounds[1])


def inclusion_frequency(
    scores: EdgeScores,
    selector: Callable[[EdgeScores], Circuit],
    resamples: int,
    seed: int,
    groups: Int[np.ndarray, " pair"] | None = None,
) -> Float[np.ndarray, " edge"]:
    """Share of resamples whose circuit keeps the edge, 0 to 1.

    `selector` is the procedure that made the circuit, pruning included:
    `lambda s: prune(top_n(s, 200))`.
    """
    weights = _weights(scores, resamples, seed, groups)
    per_pair = _per_pair(scores)
    counts = np.zeros(per_pair.shape[1], dtype=np.int64)
    for part in _chunks(resamples, per_pair.shape[1] * per_pair.itemsize):
        for values in weights[part] @ per_pair:
            counts += selector(EdgeScores(scores.wiring, values)).kept
    return counts / resamples


def classify(inclusion: float, core: float = CORE, noise: float = NOISE) -> Stability:
    """A label for an inclusion frequency: at least `core`, below `noise`, or between.

    .95 matches the level of the intervals; below .5 an edge is more often out than in. Both are
    conventions of this project: the literature names the three classes and leaves the bounds open.
    """
    if not 0 <= noise <= core <= 1:
        raise OptionError(f"bounds must be 0 <= noise <= core <= 1, not {noise} and {core}")
    if inclusion >= core:
        return Stability.CORE
    return Stability.NOISE if inclusion < noise else Stability.CONTINGENT


def _per_pair(scores: EdgeScores) -> Float[np.ndarray, "pair edge"]:
    if scores.per_pair is None:
        raise OptionError(
            "these scores were averaged without keeping one score a pair, so pairs cannot be "
            "resampled; compute them with per-pair scores"
        )
    if scores.per_pair.shape[0] < 2:
        raise OptionError("resampling needs at least 2 pairs")
    return scores.per_pair


def _weights(
    scores: EdgeScores, resamples: int, seed: int, groups: Int[np.ndarray, " pair"] | None
) -> Float[np.ndarray, "resample pair"]:
    """How often each resample drew each pair's group, as a share of all the pairs it drew."""
    _check_resamples(resamples)
    per_pair = _per_pair(scores)
    labels = np.arange(len(per_pair)) if groups is None else groups
    if len(labels) != len(per_pair):
        raise OptionError(f"{len(per_pair)} pairs have scores, and {len(labels)} have a group")
    if len(np.unique(labels)) < 2:
        raise OptionError("resampling needs at least 2 facts")
    return shares_drawn(labels, resamples, seed).astype(per_pair.dtype)


def _chunks(length: int, bytes_each: int) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // bytes_each)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _check_resamples(resamples: int) -> None:
    if not 1 <= resamples <= MAX_RESAMPLES:
        raise OptionError(
            f"the number of resamples must lie between 1 and {MAX_RESAMPLES}, not {resamples}"
        )


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise OptionError(f"the level of an interval must lie between 0 and 1, not {level}")
