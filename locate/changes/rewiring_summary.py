"""Many edits at once: which layers and roles a method rewires, with intervals over requests.

Each request gives one value of every quantity; intervals are bootstraps over requests. Beside
control edits of the same requests the quantities are differences, request by request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, bootstrap, mean
from circuits.graph.agreement import Mass
from circuits.graph.noise import Decision
from locate.changes.restored import UNDEFINED_BELOW
from locate.changes.rewired import Rewiring


class Quantity(NamedTuple):
    """What is averaged: of the `whole` circuit, of a `layer` or of a `role`.

    For layers and roles `moved_share` is the share of all score mass moved that leaves the group's
    nodes, `moved_ratio` that mass over the group's own mass before, `changed` the number of leaving
    edges called changed, and `written_share` the group's part in what moved the logits from the old
    towards the new object directly (negative where it moved them back; the rest, to 1, belongs to
    no node; undefined where next to nothing moved). For the whole circuit see `whole_numbers`.
    """

    family: str
    group: str
    name: str


@dataclass(frozen=True)
class RewiringSummary:
    """Means over `n` requests, each with its 95 % interval; differences where there are controls.

    `counts` says how many requests have a value, as some quantities are undefined for some.
    """

    n: int
    means: Mapping[Quantity, Interval]
    counts: Mapping[Quantity, int]
    beyond_control: Mapping[Quantity, Interval]

    def rows(self) -> list[dict[str, Any]]:
        """One record a quantity, for a table."""
        rows = []
        for quantity, interval in self.means.items():
            row: dict[str, Any] = {**quantity._asdict(), "requests": self.counts[quantity]}
            row |= interval.as_dict()
            if quantity in self.beyond_control:
                beyond = self.beyond_control[quantity].as_dict()
                row |= {f"beyond_control_{name}": value for name, value in beyond.items()}
            rows.append(row)
        return rows

    def __getitem__(self, quantity: tuple[str, str, str]) -> Interval:
        return self.means[Quantity(*quantity)]


def summarise(
    rewirings: Sequence[Rewiring],
    controls: Sequence[Rewiring] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> RewiringSummary:
    """Average what edits of several requests did; `controls` hold a control edit for each."""
    found = [quantities(each) for each in rewirings]
    beside = None if controls is None else [quantities(each) for each in controls]
    return summarise_quantities(found, beside, resamples=resamples, seed=seed)


def summarise_quantities(
    edits: Sequence[Mapping[Quantity, float]],
    controls: Sequence[Mapping[Quantity, float]] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> RewiringSummary:
    """As `summarise`, from each rewiring's `quantities`."""
    if not edits:
        raise OptionError("there are no rewirings to average")
    if controls is not None and len(controls) != len(edits):
        raise OptionError(f"{len(edits)} edits need as many controls, not {len(controls)}")
    table = _table(edits)

    def interval(values: np.ndarray) -> Interval:
        finite = values[np.isfinite(values)]
        if not len(finite):
            return Interval(np.nan, np.nan, np.nan)
        return bootstrap(mean, finite, resamples=resamples, seed=seed)

    beyond: dict[Quantity, Interval] = {}
    if controls is not None:
        beside = _table(controls)
        beyond = {
            quantity: interval(values - beside[quantity])
            for quantity, values in table.items()
            if quantity in beside
        }
    return RewiringSummary(
        n=len(edits),
        means={quantity: interval(values) for quantity, values in table.items()},
        counts={quantity: int(np.isfinite(values).sum()) for quantity, values in table.items()},
        beyond_control=beyond,
    )


def whole_numbers(rewiring: Rewiring) -> dict[str, float]:
    """One edit's numbers about the circuit as a whole; NaN where undefined.

    `kept`, `lost`, `gained` and `flipped` count edges of the circuits, `changed`, `unchanged` and
    `cannot tell` decisions about all edges, `switched` shown heads that speak for the new object
    now. `swing` says by how many logits the answer moved from the old to the new object, `floor`
    is the Jaccard index of two discoveries of the unedited model. `recovered` and
    `random_recovered` are the causal check's.
    """
    comparison, restoration = rewiring.comparison, rewiring.restoration
    edges = {name: getattr(comparison, name) for name in ("kept", "lost", "gained", "flipped")}
    numbers = {name: np.nan if mask is None else float(mask.sum()) for name, mask in edges.items()}
    numbers |= {"jaccard": comparison.jaccard, "node_jaccard": comparison.node_jaccard}
    dissimilarity, correlation = comparison.dissimilarity, comparison.correlation
    numbers["dissimilarity"] = np.nan if dissimilarity is None else dissimilarity
    numbers["spearman"] = np.nan if correlation is None else correlation.spearman
    found = comparison.rediscovery
    numbers["floor"] = np.nan if found is None else found.floor.value
    counts = {} if comparison.changes is None else comparison.changes.counts()
    numbers |= {str(decision): float(counts.get(decision, np.nan)) for decision in Decision}
    numbers |= {"switched": float(len(rewiring.switched)), "swing": rewiring.swing}
    numbers["recovered"] = np.nan if restoration is None else restoration.recovered
    drawn = np.empty(0) if restoration is None else restoration.random_recovered
    numbers["random_recovered"] = float(np.mean(drawn)) if len(drawn) else np.nan
    return numbers


def _table(rows: Sequence[Mapping[Quantity, float]]) -> dict[Quantity, np.ndarray]:
    """Each quantity's value for each request; a group that a request lacks moved nothing there."""
    names = dict.fromkeys(quantity for row in rows for quantity in row)
    return {quantity: np.array([row.get(quantity, 0.0) for row in rows]) for quantity in names}


def quantities(rewiring: Rewiring) -> dict[Quantity, float]:
    """Every quantity of one rewiring; NaN where it is undefined."""
    comparison = rewiring.comparison
    values = {
        Quantity("whole", "", name): number for name, number in whole_numbers(rewiring).items()
    }
    for family, masses in (("layer", comparison.by_layer()), ("role", comparison.by_role())):
        for mass in masses:
            for name, number in _of_group(mass).items():
                values[Quantity(family, mass.group, name)] = number
    swing = rewiring.written[0] - rewiring.written[1]
    total = rewiring.swing
    for family, groups in (("layer", comparison.layers), ("role", comparison.roles)):
        for group in dict.fromkeys(groups):
            own = float(swing[np.array(groups) == group].sum())
            share = own / total if abs(total) > UNDEFINED_BELOW else np.nan
            values[Quantity(family, group, "written_share")] = share
    return values


def _of_group(mass: Mass) -> dict[str, float]:
    return {
        "moved_share": mass.share,
        "moved_ratio": mass.moved / mass.before if mass.before else np.nan,
        "changed": np.nan if mass.changed is None else float(mass.changed),
    }
