"""What `circuits.graph.noise` calls changed where nothing changed: halves of one model's pairs.

The facts behind a model's scores are split at random into two halves, as if they were two models',
and compared. Every edge that is called changed is called so wrongly, and of the p-values of single
edges at most the share `level` may be as small as the level. Scores are means over pairs, so one
scoring serves any number of splits.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from circuits.base.errors import OptionError
from circuits.graph.noise import (
    Decision,
    NoiseSettings,
    Sample,
    edge_changes,
    numbered,
    per_pair_scores,
)
from circuits.graph.scores import EdgeScores

NO_MARGIN = NoiseSettings(margin=0.0)
"""Any change counts: where a false discovery is likeliest."""


def calls_between_halves(
    scores: EdgeScores,
    sample: Sample,
    *,
    splits: int,
    seed: int = 0,
    settings: NoiseSettings = NO_MARGIN,
) -> Float[np.ndarray, "split 2"]:
    """The share of edges that each split calls changed, and that of those with p <= level.

    The second is before the control of false discoveries, of edges whose score varies at all. A
    fact's pairs stay together; of an odd number of facts one is left out of each split.
    OptionError for fewer than 4 facts.
    """
    rows, (index, n_facts) = per_pair_scores(scores, sample), numbered(sample.facts)
    if n_facts < 4:
        raise OptionError(f"two halves need at least 4 facts, not {n_facts}")
    generator, half = np.random.default_rng(seed), n_facts // 2
    shares = np.empty((splits, 2))
    for split in range(splits):
        order = generator.permutation(n_facts)
        chosen = [np.isin(index, order[start : start + half]) for start in (0, half)]
        before, after = (
            EdgeScores(scores.wiring, rows[each].mean(0), rows[each]) for each in chosen
        )
        one, other = (some(sample, each) for each in chosen)
        changes = edge_changes(before, after, one, other, settings)
        varies = changes.error > 0
        below = changes.p_changed[varies] <= settings.level
        shares[split] = changes.called(Decision.CHANGED).mean(), below.mean() if len(below) else 0
    return shares


def some(sample: Sample, rows: np.ndarray) -> Sample:
    """A sample's facts and partners in some rows."""
    places = np.flatnonzero(rows)
    return Sample(
        tuple(sample.facts[row] for row in places), tuple(sample.partners[row] for row in places)
    )
