"""EAP-IG with attention computed anew: scores into queries and keys as AtP*'s, all others EAP-IG's.

EAP-IG's gradient, averaged along the path, is the better one for what heads write and MLPs read,
and still a gradient where a query or key would turn a saturated softmax. For those edges

    score = sum over query and key positions of (A - A') . mean over the path of dm/dA,

with A the clean pattern and A' that without the edge (Kramár et al. 2024, of nodes at the clean
run; Hanna et al. 2024 for the path; the two together are this project's).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import EdgeScores
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.edges.attention import CleanAttention, check_attention, replace_attention
from locate.edges.eap import Runs, along_the_path, contract_runs
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
    """Scores of all edges; arguments and errors are those of `eap.attribute`.

    UnsupportedArchitectureError for attention where one head's query changes the others' or where
    no hook reaches it.
    """
    check_attention(model)
    return contract_runs(
        model,
        pairs,
        scoring,
        _scores,
        also=[taps.pattern(layer) for layer in range(model.n_layers)],
        batch_size=batch_size,
        keep_pairs=keep_pairs,
        progress=progress,
    )


def _scores(runs: Runs) -> Float[np.ndarray, "pair edge"]:
    clean = CleanAttention(runs.model)
    scores = along_the_path(runs, clean.hooks())
    gradients = [
        runs.gradients.others[taps.pattern(layer)][None] / runs.gradients.n_runs
        for layer in range(runs.model.n_layers)
    ]
    replace_attention(runs, clean, gradients, scores, False)
    return scores
