"""Both circuits found again on other pairs: how far can their agreement be trusted?

Resampling weighs facts and partners (see `circuits.graph.noise`); a resample's scores are a matrix
product, so that 200 rediscoveries on both models need no model at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, percentiles
from circuits.graph.circuit import Circuit
from circuits.graph.noise import Sample, numbered, per_pair_scores
from circuits.graph.overlap import jaccard, node_jaccard
from circuits.graph.scores import EdgeScores


@dataclass(frozen=True, eq=False)
class Rediscovery:
    """How the comparison of two circuits varies when pairs and partners are drawn again.

    `jaccard` and `node_jaccard` compare the circuits that a resample finds on both models;
    `floor` compares two resamples' circuits of the model before: two discoveries of one and the
    same model agree no better. `before` and `after` are the shares of resamples that keep an edge.
    """

    jaccard: Interval
    node_jaccard: Interval
    floor: Interval
    before: Float[np.ndarray, " edge"]
    after: Float[np.ndarray, " edge"]
    resamples: int

    def as_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        names = ("jaccard", "node_jaccard", "floor")
        return {name: getattr(self, name).as_dict() for name in names} | {
            "resamples": self.resamples
        }


def rediscover(
    before: EdgeScores,
    after: EdgeScores,
    selector: Callable[[EdgeScores], Circuit],
    sample: Sample,
    sample_after: Sample | None = None,
    *,
    resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Rediscovery:
    """Select both circuits anew on each resample of facts and partners.

    Both models see the same facts and partners in a resample. Facts and partners get independent
    exponential weights, whose product weighs a pair (Owen & Eckles 2012): no resample is ever
    empty. `selector` is the procedure that made the circuits, pruning included.
    """
    if resamples < 2:
        raise OptionError(f"rediscovery needs at least 2 resamples, not {resamples}")
    sides = [per_pair_scores(before, sample), per_pair_scores(after, sample_after or sample)]
    samples = [sample, sample_after or sample]
    generator = np.random.default_rng(seed)
    wiring, counts = before.wiring, np.zeros((2, before.wiring.n_edges), dtype=np.int64)
    draws: dict[str, list[float]] = {"jaccard": [], "node_jaccard": [], "floor": []}
    previous: Circuit | None = None
    for _ in range(resamples):
        weights = _joint_weights(samples, generator)
        left, right = (
            selector(EdgeScores(wiring, (weight.astype(side.dtype) @ side)))
            for weight, side in zip(weights, sides, strict=True)
        )
        counts += np.stack([left.kept, right.kept])
        draws["jaccard"].append(jaccard(left, right))
        draws["node_jaccard"].append(node_jaccard(left, right))
        if previous is not None:
            draws["floor"].append(jaccard(previous, left))
        previous = left
    whole = [selector(EdgeScores(wiring, side.mean(0))) for side in sides]
    share = counts / resamples
    return Rediscovery(
        jaccard=percentiles(jaccard(*whole), draws["jaccard"], level),
        node_jaccard=percentiles(node_jaccard(*whole), draws["node_jaccard"], level),
        floor=percentiles(float(np.mean(draws["floor"])), draws["floor"], level),
        before=share[0],
        after=share[1],
        resamples=resamples,
    )


def _joint_weights(samples: Sequence[Sample], generator: np.random.Generator) -> list[np.ndarray]:
    """Each side's weights of pairs, which sum to 1; a label weighs the same on both sides."""
    parts = []
    for name in ("facts", "partners"):
        labels = [label for sample in samples for label in getattr(sample, name)]
        index, n = numbered(labels)
        parts.append(generator.exponential(size=n)[index] if n > 1 else np.ones(len(index)))
    both = np.split(parts[0] * parts[1], [len(samples[0])])
    return [weights / weights.sum() for weights in both]
