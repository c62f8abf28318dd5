"""Edge attribution patching: EAP (Syed et al. 2023) and EAP-IG (Hanna et al. 2024).

1. Run the corrupted and the clean prompt; keep what every source writes (`SourceDifferences`).
2. Run the clean prompt (EAP), or points between the corrupted and the clean token embedding
   (EAP-IG), with gradients; keep the gradient at every destination's input (`InputGradients`).
3. Contract: score(u -> v) = sum over positions of (clean - corrupted output of u) . dm/d(input of
   v), one matrix product a layer and example.
4. Average over examples.

A score estimates m(clean) - m(edge corrupted): positive supports the answer. Before the first
token in which the prompts differ both runs are the same, so those positions are computed once and
scored nowhere. Examples never share a matrix row: batch size, order and batch mates do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.scores import EdgeScores
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.edges import gim, relp
from locate.edges.gradient_path import along_the_gradient
from locate.edges.locators import Locator
from locate.edges.rules import PLAIN, BackwardRules
from locate.edges.runs import along_the_path, at_clean, contract_runs
from locate.search import Scoring

PASSES = {
    Locator.EAP: at_clean,
    Locator.EAP_IG: along_the_path,
    Locator.EAP_GP: along_the_gradient,
    Locator.RELP: at_clean,
    Locator.GIM: at_clean,
}
"""The runs that a method makes of a batch."""


def rules_of(scoring: Scoring) -> BackwardRules:
    """How gradients flow back."""
    if scoring.method == Locator.RELP:
        return relp.RULES[scoring.options.patterns]
    return gim.RULES if scoring.method == Locator.GIM else PLAIN


@alone
def attribute(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring | None = None,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> EdgeScores:
    """Scores of all edges, averaged over the pairs, by EAP, EAP-IG, EAP-GP, RelP or GIM.

    Single fields of the scoring may be given by name: `attribute(model, pairs, metric="log-prob")`.
    `keep_pairs` also keeps each pair's scores (`EdgeScores.per_pair`, 4 bytes an edge and pair).
    With `scoring.memory` batches are as small as that bound wants them, and scores the same.
    `progress` is called with (pairs done, pairs in all). Raises NumericalError naming the pair
    whose scores are not finite, UnsupportedArchitectureError where a method's rules do not reach.
    """
    scoring = Scoring.of(scoring, options)
    if scoring.method not in PASSES:
        raise OptionError(f"the method {scoring.method} is none of {', '.join(PASSES)}")
    return contract_runs(
        model,
        pairs,
        scoring,
        PASSES[scoring.method],
        rules=rules_of(scoring),
        mixed=True,
        batch_size=batch_size,
        keep_pairs=keep_pairs,
        progress=progress,
    )
