"""Did the edit act through the edges called changed? Put their old values back and see.

The edited model runs on the clean prompts with some edges carrying the unedited model's values
(`circuits.graph.restoring`). If these edges carry the edit, the old answer returns; as many random
edges show how much any set of that size would bring back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool

from circuits.base.choices import Draw
from circuits.base.errors import OptionError
from circuits.edits.edit import WeightDelta
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.restoring import run_restored, source_outputs
from circuits.model.holding import alone
from circuits.model.metrics import logit_difference, rank
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.changes.restored import Restoration


@alone
@torch.no_grad()
def restore_edges(
    model: Model,
    delta: WeightDelta,
    asked: Sequence[TokenPair],
    edges: Bool[np.ndarray, " edge"],
    *,
    wiring: Wiring | None = None,
    draws: int = 20,
    draw: Draw | str = Draw.CARRYING,
    seed: int = 0,
    batch_size: int = 16,
) -> Restoration:
    """Restore the edges, and `draws` random sets of as many, on the pairs' clean prompts.

    Edges are those of `wiring`, by default the model's own. A pair's answer is the old object, its
    foil the new one. `model` is the unedited model; it is edited for the while. Random sets avoid
    the edges themselves as far as there are others.
    """
    wiring = wiring or model.wiring()
    if edges.shape != (wiring.n_edges,):
        raise OptionError(f"the edges to restore must be {wiring.n_edges} booleans, one an edge")
    if draws < 0:
        raise OptionError(f"the number of random sets must be at least 0, not {draws}")
    generator = np.random.default_rng(seed)
    pool = np.ones(wiring.n_edges, dtype=bool)
    if Draw.of(draw) == Draw.CARRYING:
        pool = rewritten_sources(model, delta, asked, batch_size)[wiring.edge_src]
    drawn = [random_edges(edges, pool, generator) for _ in range(draws)]
    stages = 3 + draws
    values = np.empty((stages, len(asked)))
    first = np.empty((stages, len(asked)), dtype=bool)
    for batch in batches(asked, batch_size, model):
        rows = list(batch.index)
        old = source_outputs(model, batch.clean)
        unedited = model.last_logits(batch.clean)
        with delta.applied(model):
            edited = model.last_logits(batch.clean)
            restored = run_restored(model, batch.clean, old, [edges, *drawn], wiring)
        for stage, logits in enumerate([unedited, edited, *restored]):
            difference = logit_difference(logits.float(), batch.answer, batch.foil)
            values[stage, rows] = difference.cpu().numpy()
            first[stage, rows] = (rank(logits, batch.answer) == 0).cpu().numpy()
    return Restoration(
        n_edges=int(edges.sum()),
        unedited=values[0],
        edited=values[1],
        restored=values[2],
        random=values[3:],
        first_unedited=first[0],
        first_edited=first[1],
        first_restored=first[2],
        first_random=first[3:],
    )


def random_edges(
    edges: Bool[np.ndarray, " edge"],
    pool: Bool[np.ndarray, " edge"],
    generator: np.random.Generator,
) -> Bool[np.ndarray, " edge"]:
    """As many edges, drawn without replacement from others of the pool.

    Where those run out from others outside it, and then from the edges themselves.
    """
    order = np.lexsort((generator.random(len(edges)), ~pool, edges))
    chosen = np.zeros_like(edges)
    chosen[order[: int(edges.sum())]] = True
    return chosen


@alone
@torch.no_grad()
def rewritten_sources(
    model: Model, delta: WeightDelta, asked: Sequence[TokenPair], batch_size: int = 16
) -> Bool[np.ndarray, " src"]:
    """Sources that write something else in the edited model, anywhere in any clean prompt."""
    found = np.zeros(model.wiring().n_src, dtype=bool)
    for batch in batches(asked, batch_size, model):
        before = source_outputs(model, batch.clean)
        with delta.applied(model):
            differs = source_outputs(model, batch.clean) != before
        found |= differs.any(-1).any(-1).any(0).cpu().numpy()
    return found
