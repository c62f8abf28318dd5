"""Faithfulness against the number of edges, as a value; `circuits.graph.curves` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.choices import Ranking
from circuits.base.display import Shown, Summary, plotted
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.base.results import Result, numeric

if TYPE_CHECKING:
    import plotly.graph_objects as go

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Kept fractions of edges at which areas are taken."""


BASELINE = "random"
"""The name of a curve of random circuits."""


@dataclass(frozen=True)
class FaithfulnessCurve(Shown):
    """Faithfulness of nested circuits against the kept fraction of edges.

    `ranking` is how the circuits took their edges; of a curve of random ones, that of the curve
    which it is held against. None: not known.
    """

    fractions: tuple[float, ...]
    sizes: tuple[int, ...]
    faithfulness: tuple[Interval, ...]
    area: Interval
    """Integral of f over the fractions: CPR where circuits rank by signed score."""
    distance: Interval
    """Integral of |1 - f|: CMD where circuits rank by |score|."""
    ranking: Ranking | None = None

    def __post_init__(self) -> None:
        if self.ranking is not None:
            object.__setattr__(self, "ranking", Ranking.of(self.ranking, "ranking"))

    @property
    def areas(self) -> dict[str, Interval]:
        """CPR of circuits that rank by score, CMD of those that rank by |score|.

        Both integrals, by what they are of, where the ranking is not known.
        """
        if self.ranking is None:
            return {"area": self.area, "distance from 1": self.distance}
        return {"CPR": self.area} if self.ranking == Ranking.SIGNED else {"CMD": self.distance}

    def legend(self, name: str) -> str:
        """The curve's name with its areas, for a picture."""
        told = ", ".join(f"{what} {area.value:.2f}" for what, area in self.areas.items())
        return f"{name}: {told}"

    def summary(self) -> Summary:
        """The areas, and faithfulness by size."""
        rows = [
            (f"{size:,}", f"{100 * share:.3g} %", str(value))
            for size, share, value in zip(
                self.sizes, self.fractions, self.faithfulness, strict=True
            )
        ]
        return Summary(
            f"Faithfulness of {len(rows)} circuit sizes",
            {name: str(area) for name, area in self.areas.items()},
            "",
            ("edges", "of all", "faithfulness"),
            rows,
        )

    def plot(self, name: str = "circuit", **others: FaithfulnessCurve) -> go.Figure:
        """Faithfulness against size, beside other curves by name (`random` is the baseline)."""
        return FaithfulnessCurves({name: self, **others}).plot()

    def rows(self) -> list[dict[str, Any]]:
        """One record a size: edges, their share, and faithfulness with its limits."""
        points = zip(self.sizes, self.fractions, self.faithfulness, strict=True)
        return [{"edges": n, "fraction": part, **point.as_dict()} for n, part, point in points]


@dataclass(frozen=True)
class FaithfulnessCurves(Result):
    """Curves by name, in their order, with their origin; `BASELINE` names random circuits'."""

    KIND = "faithfulness curves"

    curves: Mapping[str, FaithfulnessCurve]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One record a curve and size."""
        return [
            {"curve": name, **row} for name, curve in self.curves.items() for row in curve.rows()
        ]

    def summary(self) -> Summary:
        """The areas of each curve."""
        names = dict.fromkeys(what for curve in self.curves.values() for what in curve.areas)
        rows = [
            (name, *(str(curve.areas[what]) if what in curve.areas else "" for what in names))
            for name, curve in self.curves.items()
        ]
        header = ("curve", *names)
        return Summary(f"{len(rows)} faithfulness curves", {}, "", header, rows)

    def plot(self, **options: Any) -> go.Figure:
        """Faithfulness against size; options are those of `viz.screen.curve_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """Sizes and fractions by the place of the curve."""
        arrays = {}
        for place, curve in enumerate(self.curves.values()):
            arrays[f"{place}.sizes"] = np.array(curve.sizes, dtype=np.int64)
            arrays[f"{place}.fractions"] = np.array(curve.fractions, dtype=np.float64)
        return arrays

    def metadata(self) -> dict[str, Any]:
        """Names and intervals."""
        records = [
            {
                "name": name,
                "faithfulness": [point.as_dict() for point in curve.faithfulness],
                "area": curve.area.as_dict(),
                "distance": curve.distance.as_dict(),
                "ranking": None if curve.ranking is None else str(curve.ranking),
            }
            for name, curve in self.curves.items()
        ]
        return {"curves": records, "provenance": dict(self.provenance)}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> FaithfulnessCurves:
        """The inverse of `arrays` and `metadata`; OptionError where lengths do not fit."""
        curves = {
            str(record["name"]): FaithfulnessCurve(
                fractions=tuple(numeric(arrays, f"{place}.fractions", "f", 1).tolist()),
                sizes=tuple(numeric(arrays, f"{place}.sizes", "i", 1).tolist()),
                faithfulness=tuple(map(Interval.from_dict, record["faithfulness"])),
                area=Interval.from_dict(record["area"]),
                distance=Interval.from_dict(record["distance"]),
                ranking=None if (by := record.get("ranking")) is None else Ranking.of(by),
            )
            for place, record in enumerate(metadata["curves"])
        }
        lengths = [{len(c.faithfulness), len(c.sizes), len(c.fractions)} for c in curves.values()]
        if any(len(each) > 1 for each in lengths):
            raise OptionError("their lengths do not fit")
        return cls(curves, dict(metadata["provenance"]))
