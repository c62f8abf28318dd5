"""Did the edit act through the edges called changed? Put their old values back and see.

The edited model runs on the clean prompts with some edges carrying the unedited model's values
(`circuits.graph.restoring`). If these edges carry the edit, the old answer returns; as many random
edges show how much any set of that size would bring back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from circuits.base.choices import Draw
from circuits.base.errors import OptionError
from circuits.base.results import numeric
from circuits.edits.edit import WeightDelta
from circuits.facts.pairs import TokenPair, batches
from circuits.graph.restoring import run_restored, source_outputs
from circuits.model.holding import alone
from circuits.model.metrics import logit_difference, rank
from circuits.model.model import Model
from circuits.model.wiring import Wiring

UNDEFINED_BELOW = 0.1
"""Shares of an edit's effect are undefined where that is no more than so many logits: a share of
next to nothing is noise."""


@dataclass(frozen=True, eq=False)
class Restoration:
    """What returns when edges carry their old values again; one value a prompt.

    The `old_minus_new` numbers are logit differences of the old object over the new one; `first`
    says whether the old object is ranked first. Random sets are averaged where a draw is an axis.
    """

    n_edges: int
    unedited: Float[np.ndarray, " prompt"]
    edited: Float[np.ndarray, " prompt"]
    restored: Float[np.ndarray, " prompt"]
    random: Float[np.ndarray, "draw prompt"]
    first_unedited: Bool[np.ndarray, " prompt"]
    first_edited: Bool[np.ndarray, " prompt"]
    first_restored: Bool[np.ndarray, " prompt"]
    first_random: Bool[np.ndarray, "draw prompt"]

    @property
    def recovered(self) -> float:
        """Share of the edit's effect on old minus new that is undone: 0 nothing, 1 all of it."""
        return self._share(self.restored.mean())

    @property
    def random_recovered(self) -> Float[np.ndarray, " draw"]:
        """The same of each random set."""
        return np.array([self._share(draw.mean()) for draw in self.random])

    def as_dict(self) -> dict[str, Any]:
        """The summary for JSON; null where a share is undefined."""
        shares = {"recovered": self.recovered}
        if len(self.random):
            shares["random_recovered"] = float(np.mean(self.random_recovered))
            shares["random_recovered_most"] = float(np.max(self.random_recovered))
        numbers = {name: float(getattr(self, name).mean()) for name in _STAGES}
        first = {f"first_{name}": float(self._first(name).mean()) for name in _STAGES}
        if len(self.random):
            numbers["random"] = float(self.random.mean())
            first["first_random"] = float(self.first_random.mean())
        plain = {name: x if np.isfinite(x) else None for name, x in shares.items()}
        return {"edges": self.n_edges, "draws": len(self.random), **plain, **numbers, **first}

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers of each prompt, for a file."""
        return {name: value for name, value in vars(self).items() if name != "n_edges"}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], n_edges: int) -> Restoration:
        """The inverse of `arrays`; OptionError where an array has another kind or other axes."""
        numbers = {
            name: numeric(arrays, name, "b" if "first" in name else "f", 1 + ("random" in name))
            for name in arrays
        }
        return cls(n_edges=n_edges, **numbers)

    def _first(self, name: str) -> np.ndarray:
        return getattr(self, f"first_{name}")

    def _share(self, value: np.floating | float) -> float:
        whole = float(self.unedited.mean() - self.edited.mean())
        if abs(whole) <= UNDEFINED_BELOW:
            return float("nan")
        return (float(value) - float(self.edited.mean())) / whole


_STAGES = ("unedited", "edited", "restored")


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
