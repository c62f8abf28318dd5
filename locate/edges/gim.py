"""GIM: edge attribution with gradients that are modified where parts interact.

Edin et al. 2025 (arXiv:2505.17630). As EAP, a score is

    (clean - corrupted output of u) . g_v,

summed over positions and averaged over pairs, where g_v comes from a backward pass in which

- a norm's denominator is a constant,
- a softmax s -> A passes p * (g - sum(p * g)) with p = softmax(s / 2), so that a saturated one
  still passes something,
- what reaches queries, keys and values is multiplied by 1/4, 1/4 and 1/2, the shares of three
  factors of a product.

One corrupted, one clean and one backward pass, as EAP.
"""

from __future__ import annotations

from collections.abc import Sequence

from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import EdgeScores
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.edges.rules import BackwardRules
from locate.edges.runs import at_clean, contract_runs
from locate.search import Scoring

RULES = BackwardRules(frozen_norms=True, temperature=2.0, scales=(0.25, 0.25, 0.5))
"""The published values."""


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
    """Scores of all edges by GIM; arguments and errors are those of `eap.attribute`.

    UnsupportedArchitectureError where attention cannot be reached by hooks.
    """
    return contract_runs(
        model,
        pairs,
        scoring,
        at_clean,
        rules=RULES,
        batch_size=batch_size,
        keep_pairs=keep_pairs,
        progress=progress,
    )
