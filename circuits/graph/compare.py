"""What happened to a circuit: before and after an edit, between checkpoints or models of one size.

1. Sets: edges and nodes kept, lost and gained, and edges whose score changed its sign.
2. Scores: rank correlation, and how much score moved in which layer and role.
3. Noise: which edges' scores changed by more than other facts and other corrupted subjects would
   change them (`circuits.graph.noise`), and how far the circuits' agreement depends on the pairs
   that were drawn (`circuits.graph.rediscovery`). Both need scores of single pairs, and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.noise import NoiseSettings, Sample, edge_changes
from circuits.graph.rediscovery import rediscover
from circuits.graph.scores import EdgeScores


def compare_scores(
    before: EdgeScores,
    after: EdgeScores,
    selector: Callable[[EdgeScores], Circuit],
    sample: Sample,
    sample_after: Sample | None = None,
    *,
    settings: NoiseSettings | None = None,
    resamples: int = 200,
    seed: int = 0,
    roles: Mapping[str, str] | None = None,
) -> Comparison:
    """Select both circuits and compare them against the noise floor.

    `before` and `after` hold scores of single pairs, `sample` says which facts and partners these
    are (`sample_after` where the pairs after are others). `selector` is how a circuit is made of
    scores, as `lambda s: select(s, Selection.TOP, n=200)`; `resamples` of 0 leaves the
    rediscovery out. `roles` label nodes for `by_role`. The result keeps no scores of single pairs.
    """
    changes = edge_changes(before, after, sample, sample_after, settings)
    found = None
    if resamples:
        found = rediscover(
            before, after, selector, sample, sample_after, resamples=resamples, seed=seed
        )
    circuits = [selector(replace(scores, per_pair=None)) for scores in (before, after)]
    if roles is not None:
        circuits = [replace(circuit, roles=roles) for circuit in circuits]
    return Comparison(circuits[0], circuits[1], changes, found)
