"""Scores of edges by whichever method a scoring names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from circuits.base.choices import Meaning
from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.facts.whole_answers import Parts
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.edges.locators import Locator
from locate.search import Scoring


@alone
def score_edges(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> EdgeScores | Circuit:
    """Scores of all edges; a circuit, where the method selects edges itself.

    `keep_pairs` also keeps each pair's scores; OptionError where the method has none. Their
    provenance is what was asked for here, whatever a method that joins others says of those.
    """
    method = scoring.method
    if keep_pairs and not method.per_pair:
        raise OptionError(f"`method` {method} gives no scores of single pairs; use eap-ig")
    options = {"batch_size": batch_size, "keep_pairs": keep_pairs, "progress": progress}
    if method.selects and method.is_own:
        scoring.metric.check_one_token(f"the method {method}")
    parts = Parts.of(model.tokenizer, pairs, scoring.metric)
    # A method that selects runs circuits, and these are of pairs already.
    found = method.load()(model, pairs if method.selects else parts.pairs, scoring, **options)
    if not isinstance(found, Circuit if method.selects else EdgeScores):
        wanted = "a Circuit" if method.selects else "EdgeScores"
        raise OptionError(f"the method {method} returns {type(found).__name__}, not {wanted}")
    if isinstance(found, EdgeScores) and keep_pairs:
        _check_pairs(found, method, len(parts))
    if isinstance(found, EdgeScores) and method.per_pair:
        found = _of_pairs(found, parts)
    asked = {**model.provenance, **scoring.record(), **_about(scoring, pairs)}
    if isinstance(found, Circuit) and found.scores is not None:
        scores = found.scores
        found = replace(found, scores=replace(scores, provenance={**scores.provenance, **asked}))
    return replace(found, provenance={**found.provenance, **asked})


def _about(scoring: Scoring, pairs: Sequence[TokenPair]) -> dict[str, Any]:
    """Which pairs, and what scores say where that is not what the metric loses."""
    about = {"pairs": len(pairs), "bos": pairs[0].clean.bos}
    usual = scoring.meaning == Meaning.EFFECT
    return about if usual else {**about, "meaning": str(scoring.meaning)}


def _of_pairs(found: EdgeScores, parts: Parts) -> EdgeScores:
    """Means over pairs from means over their parts."""
    if parts.per_pair == 1:
        return found
    singles = None if found.per_pair is None else parts.sums(found.per_pair, 0)
    return replace(found, values=found.values * np.float32(parts.per_pair), per_pair=singles)


def pair_scores(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores of all edges with those of single pairs; OptionError where the method has none."""
    if scoring.method.selects:
        raise OptionError(f"`method` {scoring.method} gives no scores of single pairs; use eap-ig")
    found = score_edges(
        model, pairs, scoring, batch_size=batch_size, keep_pairs=True, progress=progress
    )
    assert isinstance(found, EdgeScores)
    return found


def _check_pairs(found: EdgeScores, method: Locator, n_pairs: int) -> None:
    if found.per_pair is None or len(found.per_pair) != n_pairs:
        raise OptionError(
            f"the method {method} was asked for the scores of single pairs and gives none; "
            "register it with per_pair=False"
        )
