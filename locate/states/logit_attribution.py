"""What each source adds to the logits, as a value; `locate.states.attribution` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuits.base.display import Summary, named, plotted
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric
from circuits.model.geometry import stored_wiring
from circuits.model.wiring import Wiring
from locate.states.observed import groups_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 12
"""Contributions in a summary."""


_ATTRIBUTED = ("contributions", "constant", "logit_difference")


@dataclass(frozen=True, eq=False)
class LogitAttribution(Result):
    """Contributions of the wiring's sources to the logit difference, answer minus foil.

    Positive contributions speak for the answer. An MLP's contains its output bias. For every pair
    the contributions and the constant sum to the logit difference.
    """

    KIND = "attribution"

    wiring: Wiring
    contributions: Float[np.ndarray, "pair src"]
    constant: Float[np.ndarray, " pair"]
    logit_difference: Float[np.ndarray, " pair"]
    provenance: Mapping[str, Any]

    @property
    def groups(self) -> Int[np.ndarray, " pair"] | None:
        """The number of each pair's observation; None where each is its own."""
        return groups_of(self.provenance, len(self.contributions))

    def mean(self) -> Float[np.ndarray, " src"]:
        """Contributions averaged over pairs."""
        return self.contributions.mean(0)

    def rows(self) -> list[dict[str, Any]]:
        """One record a source, the largest contribution by size first."""
        mean = self.mean()
        names = self.wiring.src_names
        order = np.argsort(-np.abs(mean), kind="stable")
        return [{"source": names[src], "contribution": float(mean[src])} for src in order]

    def summary(self) -> Summary:
        """The mean logit difference, and the largest contributions."""
        rows = [(row["source"], f"{row['contribution']:+.3f}") for row in self.rows()[:SHOWN]]
        facts = named(self.provenance, "model", "relation", "pairs")
        facts["mean logit difference"] = f"{self.logit_difference.mean():.3f}"
        header = ("source", "logits")
        return Summary("Direct logit attribution", facts, "largest contributions", header, rows)

    def plot(self, **options: Any) -> go.Figure:
        """Bars, largest first; options are those of `viz.screen.attribution_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers of each pair, for a file."""
        return {name: getattr(self, name) for name in _ATTRIBUTED}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {"geometry": self.wiring.geometry(), "provenance": dict(self.provenance)}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> LogitAttribution:
        """The inverse of `arrays` and `metadata`; OptionError where shapes do not fit."""
        wiring = stored_wiring(metadata)
        numbers = [numeric(arrays, name, "f", 1 + (not at)) for at, name in enumerate(_ATTRIBUTED)]
        n_pairs = len(numbers[0])
        shapes = [each.shape for each in numbers]
        if not n_pairs or shapes != [(n_pairs, wiring.n_src), (n_pairs,), (n_pairs,)]:
            raise OptionError("the shapes do not fit")
        contributions, constant, difference = numbers
        origin = dict(metadata["provenance"])
        groups_of(origin, n_pairs)
        return cls(wiring, contributions, constant, difference, origin)
