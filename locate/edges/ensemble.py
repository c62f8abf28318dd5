"""Several locators joined: the mean of their scores on one scale, or of the ranks of their scores.

For locators l with scores x_l, the mean over pairs, over the E edges:

- by scores, mean_l x_l / sqrt(mean over edges of x_l^2), which also holds pair by pair;
- by ranks, r_l = (rank of |x_l| from the smallest, ties at their mean) / E, which is in (0, 1]; the
  score of an edge is mean_l r_l, with the sign of mean_l sign(x_l) r_l. Ranks are of the mean over
  pairs and not pair by pair: of the many edges that do nothing, some rank high in any one pair.

Ensembles of locators won BlackboxNLP 2025's shared task on circuits (Mondorf et al. 2025). Such
scores are no estimate of a change of the metric any more. Cost: that of the locators together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.scores import EdgeScores
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.edges.locators import Joining, Locator
from locate.search import Scoring


@alone
def attribute(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores of all edges by an ensemble.

    Members have their usual options; steps and rule are the scoring's. `progress` counts each pair
    once a member. OptionError where scores of single pairs are asked for and there are none.
    """
    options = scoring.options
    if keep_pairs and options.by == Joining.RANKS:
        raise OptionError(
            "an ensemble by ranks gives no scores of single pairs; take `by` scores, or "
            "`resamples` 0"
        )
    lacking = [name for name in options.of if not Locator.of(name).per_pair]
    if keep_pairs and lacking:
        raise OptionError(
            f"{lacking[0]} gives no scores of single pairs, so that an ensemble of it has none; "
            "take `resamples` 0"
        )
    scores: list[np.ndarray] = []
    singles: np.ndarray | None = None
    done = [0]

    def count(pairs_done: int, _: int) -> None:
        if progress is not None:
            progress(done[0] + pairs_done, len(pairs) * len(options.of))

    for name in options.of:
        member = replace(scoring, method=Locator.of(name), options=None)
        found = member.method.load()(
            model, pairs, member, batch_size=batch_size, keep_pairs=keep_pairs, progress=count
        )
        done[0] += len(pairs)
        values = found.values.astype(np.float64)
        size = np.sqrt(np.square(values).mean()) or 1.0
        scores.append(values / size)
        if keep_pairs:
            part = found.per_pair / size
            singles = part if singles is None else singles + part
    joined = _by_ranks(scores) if options.by == Joining.RANKS else np.mean(scores, 0)
    if singles is not None:
        singles = (singles / len(options.of)).astype(np.float32)
    provenance = {**model.provenance, **scoring.record(), "pairs": len(pairs)}
    return EdgeScores(found.wiring, joined.astype(np.float32), singles, provenance)


def _by_ranks(scores: Sequence[Float[np.ndarray, " edge"]]) -> Float[np.ndarray, " edge"]:
    """Mean of the ranks of sizes, with the sign that the ranks vote for."""
    ranks = np.stack([rankdata(np.abs(each)) / each.size for each in scores])
    votes = (np.sign(scores) * ranks).sum(0)
    return ranks.mean(0) * np.where(votes < 0, -1, 1)
