"""The logit lens over many prompts, as a value; `locate.states.lens_average` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuits.base.display import Summary, named, plotted
from circuits.base.errors import OptionError
from circuits.base.intervals import bootstrap_means, enough, redrawn
from circuits.base.origin import unit_of
from circuits.base.results import Result, numeric
from locate.states.observed import groups_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

NOT_A_LENS = "these arrays are not an averaged lens"


class Place(StrEnum):
    """Which position is read."""

    LAST = "last token"
    SUBJECT = "subject's last token"


class Followed(StrEnum):
    """What is followed through the layers; of several tokens the best one counts."""

    ANSWER = "answer"
    OTHERS = "other objects"
    SUBJECT = "subject"


@dataclass(frozen=True, eq=False)
class Curve:
    """A statistic by state with its 95 % bootstrap limits over facts (NaN for too few facts)."""

    value: Float[np.ndarray, " state"]
    low: Float[np.ndarray, " state"]
    high: Float[np.ndarray, " state"]


@dataclass(frozen=True, eq=False)
class AverageLens(Result):
    """Rank and probability of what is followed, in every fact's clean prompt.

    `rank` counts the tokens above (0: none is); rows, tables and pictures have ranks from 1.

    State 0 is the embedding, state l + 1 the residual stream after layer l; the last state at the
    last token is the model's own output.
    """

    KIND = "average lens"

    places: tuple[Place, ...]
    followed: tuple[Followed, ...]
    rank: Int[np.ndarray, "fact state place followed"]
    probability: Float[np.ndarray, "fact state place followed"]
    provenance: Mapping[str, Any]

    @property
    def n_facts(self) -> int:
        """How many facts were read; where some share one (`groups`), how many pairs."""
        return len(self.rank)

    @property
    def groups(self) -> Int[np.ndarray, " fact"] | None:
        """The number of each row's observation; None where each is its own."""
        return groups_of(self.provenance, self.n_facts)

    def median_rank(self, place: Place, what: Followed, *, seed: int = 0) -> Curve:
        """The median over facts of `rank`; ranks spread over decades: their mean says little."""
        values = self._column(self.rank, place, what).astype(float)
        centre = np.median(values, 0)
        groups = self.groups
        if not enough(self.n_facts if groups is None else len(np.unique(groups))):
            return Curve(centre, *np.full((2, len(centre)), np.nan))
        if groups is None:
            picks = np.random.default_rng(seed).integers(self.n_facts, size=(1000, self.n_facts))
            # Sorted, so that the limits do not depend on the facts' order.
            medians = np.median(np.sort(values, 0)[picks], 1)
        else:
            medians = np.stack([np.median(values[at], 0) for at in redrawn(groups, 1000, seed)])
        low, high = np.quantile(medians, [0.025, 0.975], 0)
        return Curve(centre, low, high)

    def mean_probability(self, place: Place, what: Followed, *, seed: int = 0) -> Curve:
        """The mean over facts."""
        values = self._column(self.probability, place, what)
        return Curve(*bootstrap_means(values, seed=seed, groups=self.groups))

    def rows(self) -> list[dict[str, Any]]:
        """One record a place, layer and thing followed, for tables; layer -1 is the embedding.

        Rank 1 is the top. Limits are None where there are none.
        """
        records = []
        for place in self.places:
            curves = {
                what: (self.median_rank(place, what), self.mean_probability(place, what))
                for what in self.followed
            }
            for state in range(self.rank.shape[1]):
                for what, (ranks, probabilities) in curves.items():
                    records.append(
                        {
                            "position": str(place),
                            "layer": state - 1,
                            "label": str(what),
                            "median_rank": float(ranks.value[state]) + 1,
                            "rank_limits": _limits(ranks, state, 1),
                            "mean_probability": float(probabilities.value[state]),
                            "probability_limits": _limits(probabilities, state),
                        }
                    )
        return records

    def summary(self) -> Summary:
        """Median rank of what is followed, layer by layer, at the first position read."""
        place = self.places[0]
        ranks = [self.median_rank(place, what).value for what in self.followed]
        rows = [
            (
                "embedding" if not state else str(state - 1),
                *(f"{rank[state] + 1:,g}" for rank in ranks),
            )
            for state in range(self.rank.shape[1])
        ]
        return Summary(
            f"Logit lens over {self.n_facts:,} {unit_of(self.provenance)}s",
            {**named(self.provenance, "model"), "read at": ", ".join(self.places)},
            f"median rank at the {place} (1 is the top)",
            ("layer", *map(str, self.followed)),
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """Rank and probability by layer; options are those of `viz.screen.lens_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers, for a file; `metadata` holds the rest."""
        return {"rank": self.rank, "probability": self.probability}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "places": [str(place) for place in self.places],
            "followed": [str(what) for what in self.followed],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> AverageLens:
        """The inverse of `arrays` and `metadata`; OptionError where they are no averaged lens."""
        try:
            found = cls(
                places=tuple(Place(place) for place in metadata["places"]),
                followed=tuple(Followed(what) for what in metadata["followed"]),
                rank=numeric(arrays, "rank", "i", 4),
                probability=numeric(arrays, "probability", "f", 4),
                provenance=dict(metadata["provenance"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise OptionError(f"{NOT_A_LENS}: {error}") from None
        shape, axes = found.rank.shape, (len(found.places), len(found.followed))
        if not all(shape) or shape[2:] != axes or found.probability.shape != shape:
            raise OptionError(f"{NOT_A_LENS}: their shapes do not fit")
        groups_of(found.provenance, shape[0])
        return found

    def _column(self, values: np.ndarray, place: Place, what: Followed) -> np.ndarray:
        if place not in self.places or what not in self.followed:
            raise OptionError(f"{what} at the {place} was not followed")
        return values[:, :, self.places.index(place), self.followed.index(what)]


def _limits(curve: Curve, state: int, add: int = 0) -> list[float] | None:
    limits = [float(curve.low[state]) + add, float(curve.high[state]) + add]
    return limits if np.isfinite(limits).all() else None
