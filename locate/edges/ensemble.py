"""Several locators joined: the mean of the ranks of their scores, or of the scores themselves.

For each pair of prompts and each locator l with scores x_l over the E edges:

- by ranks, r_l = (rank of |x_l| from the smallest, ties at their mean) / E, which is in (0, 1]; the
  score of an edge is mean_l r_l, with the sign of mean_l sign(x_l) r_l;
- by scores, mean_l x_l / sqrt(mean over edges of x_l^2).

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
from circuits.graph.circuit import EdgeScores
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
    """Scores of all edges by an ensemble: the mean over pairs of the members' joined scores.

    Members have their usual options; steps and rule are the scoring's. `progress` counts each pair
    once a member. OptionError where a member gives no scores of single pairs.
    """
    options = scoring.options
    total: np.ndarray | None = None
    signs: np.ndarray | None = None
    done = [0]

    def count(pairs_done: int, _: int) -> None:
        if progress is not None:
            progress(done[0] + pairs_done, len(pairs) * len(options.of))

    for name in options.of:
        member = replace(scoring, method=Locator.of(name), options=None)
        if not member.method.per_pair:
            raise OptionError(f"{name} gives no scores of single pairs, which an ensemble joins")
        found = member.method.load()(
            model, pairs, member, batch_size=batch_size, keep_pairs=True, progress=count
        )
        done[0] += len(pairs)
        part, side = _JOINED[options.by](found.per_pair)
        total = part if total is None else total + part
        signs = side if signs is None else signs + side
    assert total is not None, "an ensemble has members"
    assert signs is not None, "an ensemble has members"
    per_pair = (total / len(options.of) * np.where(signs < 0, -1, 1)).astype(np.float32)
    mean = per_pair.mean(0, dtype=np.float64).astype(np.float32)
    return EdgeScores(found.wiring, mean, per_pair if keep_pairs else None, found.provenance)


def _ranks(scores: Float[np.ndarray, "pair edge"]) -> tuple[np.ndarray, np.ndarray]:
    """Size, and what votes for the sign."""
    ranks = rankdata(np.abs(scores), axis=1) / scores.shape[1]
    return ranks, np.sign(scores) * ranks


def _scaled(scores: Float[np.ndarray, "pair edge"]) -> tuple[np.ndarray, np.ndarray]:
    """Size with its sign, which needs no vote."""
    size = np.sqrt(np.square(scores, dtype=np.float64).mean(1, keepdims=True))
    return scores / np.where(size > 0, size, 1), np.zeros(scores.shape)


_JOINED = {Joining.RANKS: _ranks, Joining.SCORES: _scaled}
