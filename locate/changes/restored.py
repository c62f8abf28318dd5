"""What returns with old values on edges, as a value; `locate.changes.restoration` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from circuits.base.results import numeric

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
