"""What differs between two circuits of one wiring, as a value; `circuits.graph.compare` makes it.

Score mass is the sum of |score| over edges; edges are counted where they start, so that the layer
and role of an edge are those of the node that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.base.arrays import ContentError, Layout
from circuits.base.display import Summary, named, plotted
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.base.plain import plain
from circuits.base.results import Result, numeric, prefixed, within
from circuits.graph.agreement import Mass, RankCorrelation, rank_correlation
from circuits.graph.circuit import Circuit
from circuits.graph.header import EDGE_ORDER, check_circuit
from circuits.graph.noise import Decision, EdgeChanges
from circuits.graph.overlap import jaccard, node_jaccard, node_mask, node_names
from circuits.graph.rediscovery import Rediscovery
from circuits.model.wiring import node_kind, node_layer

if TYPE_CHECKING:
    import plotly.graph_objects as go

DECIDES_SCORES = ("method", "steps", "rule", "metric", "ablation", "kv", "bos")
"""What must be equal on both sides, or scores differ for another reason than the model.

Besides, every option of a method's own.
"""
SHOWN = 8
"""Edges in a summary."""
_SIDES = ("before", "after")
_CHANGES, _REDISCOVERY = "changes.", "rediscovery."
_INTERVALS = ("jaccard", "node_jaccard", "floor")


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """Two circuits of one wiring and what differs; everything is derived from the fields.

    Edge masks are in canonical order. Properties about scores are None where a side has none.
    A circuit compared with itself loses and gains nothing and has a Jaccard index of 1.
    OptionError where the circuits, or the noise floor, are not of one wiring.
    """

    KIND = "comparison"

    before: Circuit
    after: Circuit
    changes: EdgeChanges | None = None
    rediscovery: Rediscovery | None = None

    def __post_init__(self) -> None:
        one, other = self.before.wiring, self.after.wiring
        if one != other:
            raise OptionError(
                f"circuits of {one.describe()} and of {other.describe()} cannot be compared"
            )
        if self.changes is not None and len(self.changes.change) != one.n_edges:
            raise OptionError("the noise floor belongs to another wiring than the circuits")

    @property
    def kept(self) -> Bool[np.ndarray, " edge"]:
        """Edges of both circuits."""
        return self.before.kept & self.after.kept

    @property
    def lost(self) -> Bool[np.ndarray, " edge"]:
        """Edges of the circuit before only."""
        return self.before.kept & ~self.after.kept

    @property
    def gained(self) -> Bool[np.ndarray, " edge"]:
        """Edges of the circuit after only."""
        return ~self.before.kept & self.after.kept

    @property
    def flipped(self) -> Bool[np.ndarray, " edge"] | None:
        """Kept edges that supported the fact and now oppose it, or the other way round."""
        if self.scores is None:
            return None
        before, after = self.scores
        return self.kept & (np.sign(before) * np.sign(after) < 0)

    @cached_property
    def nodes_kept(self) -> tuple[str, ...]:
        """Nodes of both circuits."""
        return self._nodes(np.logical_and)

    @cached_property
    def nodes_lost(self) -> tuple[str, ...]:
        """Nodes of the circuit before only."""
        return self._nodes(np.greater)

    @cached_property
    def nodes_gained(self) -> tuple[str, ...]:
        """Nodes of the circuit after only."""
        return self._nodes(np.less)

    @property
    def jaccard(self) -> float:
        """Kept edges over the edges of either circuit; 1 for two empty circuits."""
        return jaccard(self.before, self.after)

    @property
    def node_jaccard(self) -> float:
        """The same of nodes."""
        return node_jaccard(self.before, self.after)

    @property
    def scores(self) -> tuple[Float[np.ndarray, " edge"], Float[np.ndarray, " edge"]] | None:
        """All edges' scores before and after."""
        if self.before.scores is None or self.after.scores is None:
            return None
        return self.before.scores.values, self.after.scores.values

    @cached_property
    def correlation(self) -> RankCorrelation | None:
        """Rank correlation of all edges' scores."""
        return None if self.scores is None else rank_correlation(*self.scores)

    @cached_property
    def union_correlation(self) -> RankCorrelation | None:
        """Rank correlation of the scores of edges in either circuit."""
        if self.scores is None:
            return None
        either = (self.before | self.after).kept
        return rank_correlation(*(values[either] for values in self.scores))

    @property
    def dissimilarity(self) -> float | None:
        """Mass moved over the mass of both sides: 0 for equal scores, 1 for nothing in common."""
        if self.scores is None:
            return None
        before, after = (values.astype(np.float64) for values in self.scores)
        mass = np.abs(before).sum() + np.abs(after).sum()
        return float(np.abs(after - before).sum() / mass) if mass else 0.0

    @property
    def layers(self) -> tuple[str, ...]:
        """Each source's layer as text; `input` for the token embedding."""
        layers = (node_layer(name) for name in self.before.wiring.src_names)
        return tuple("input" if layer is None else str(layer) for layer in layers)

    @property
    def roles(self) -> tuple[str, ...]:
        """Each source's role.

        That is its label in the circuit before, else in the one after, else its kind: `input`,
        `head` or `mlp`.
        """
        labels = {**self.after.roles, **self.before.roles}
        names = self.before.wiring.src_names
        return tuple(labels.get(name) or node_kind(name) for name in names)

    def by_layer(self) -> tuple[Mass, ...]:
        """Mass moved by the layer that writes; the first entry is the token embedding."""
        return self._by_source(self.layers, list(dict.fromkeys(self.layers)))

    def by_role(self) -> tuple[Mass, ...]:
        """Mass moved by the role of the node that writes."""
        return self._by_source(self.roles, sorted(set(self.roles)))

    def by_span(self) -> tuple[Mass, ...]:
        """Mass moved by span; none where the circuits tell no spans apart."""
        wiring = self.before.wiring
        return self._mass(wiring.edge_span, wiring.spans) if wiring.spans else ()

    def differing_settings(self) -> dict[str, tuple[Any, Any]]:
        """Ways in which the two sides were scored differently, which also moves scores.

        A method's own options are named `relp.patterns`. What one side does not say is left out.
        """
        if self.before.scores is None or self.after.scores is None:
            return {}
        left, right = (
            _settings(scores.provenance) for scores in (self.before.scores, self.after.scores)
        )
        keys = [key for key in left if key in right]
        return {key: (left[key], right[key]) for key in keys if left[key] != right[key]}

    def summary(self) -> Summary:
        """Counts and agreement, and the edges that changed most."""
        names = ("kept", "lost", "gained", "flipped")
        masks = {name: getattr(self, name) for name in names}
        facts = named(self.before.provenance, "model", "relation")
        facts["edges"] = ", ".join(f"{int(m.sum())} {n}" for n, m in masks.items() if m is not None)
        facts["Jaccard"] = f"{self.jaccard:.3f} (nodes {self.node_jaccard:.3f})"
        if self.rediscovery is not None:
            facts["Jaccard of rediscoveries"] = str(self.rediscovery.floor)
        if self.changes is not None:
            counts = self.changes.counts().items()
            facts["against the noise"] = ", ".join(f"{n} edges {name}" for name, n in counts)
        columns = ("edge", "status", "before", "after", "decision")
        rows = [tuple(_shown(row.get(column)) for column in columns) for row in self.rows()[:SHOWN]]
        return Summary(
            f"Circuits of {self.before.n_edges:,} edges before and {self.after.n_edges:,} after",
            facts,
            "largest changes",
            columns,
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """Before and after in one picture; options are those of `viz.screen.difference_figure`."""
        return plotted(self, **options)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """That of the circuit before."""
        return self.before.provenance

    def arrays(self) -> dict[str, np.ndarray]:
        """Both circuits, the noise floor and the rediscovery; not the scores of single pairs."""
        arrays: dict[str, np.ndarray] = {}
        for side in _SIDES:
            arrays |= prefixed(getattr(self, side).arrays(), f"{side}.")
        if self.changes is not None:
            arrays |= prefixed(self.changes.arrays(), _CHANGES)
        if self.rediscovery is not None:
            found = {side: getattr(self.rediscovery, side) for side in _SIDES}
            arrays |= prefixed(found, _REDISCOVERY)
        return arrays

    def metadata(self) -> dict[str, Any]:
        """What describes both circuits, and the settings of the rest."""
        found: dict[str, Any] = {side: getattr(self, side).metadata() for side in _SIDES}
        if self.changes is not None:
            found["changes"] = self.changes.as_dict()
        if self.rediscovery is not None:
            found["rediscovery"] = self.rediscovery.as_dict()
        return found

    @classmethod
    def check_header(cls, layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
        """Both circuits as circuits are checked, and one value an edge of all the rest."""
        for side in _SIDES:
            own = {
                name.removeprefix(f"{side}."): layout
                for name, layout in layouts.items()
                if name.startswith(f"{side}.")
            }
            check_circuit(own, _side(metadata, side))
        n_bytes = layouts["before.in_graph"].shape[0]
        for name, layout in layouts.items():
            inside = name.startswith(("before.", "after."))
            if not inside and (len(layout.shape) != 1 or -(-layout.shape[0] // 8) != n_bytes):
                raise ContentError(f"tensor {name!r:.60} does not fit the circuits")

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> Comparison:
        """The inverse of `arrays` and `metadata`."""
        sides = [
            Circuit.from_arrays(within(arrays, f"{side}."), _side(metadata, side))
            for side in _SIDES
        ]
        changes, rediscovery = None, None
        if "changes" in metadata:
            changes = EdgeChanges.from_arrays(within(arrays, _CHANGES), metadata["changes"])
        if "rediscovery" in metadata:
            about = metadata["rediscovery"]
            rediscovery = Rediscovery(
                **{name: Interval.from_dict(about[name]) for name in _INTERVALS},
                before=numeric(arrays, f"{_REDISCOVERY}before", "f", 1),
                after=numeric(arrays, f"{_REDISCOVERY}after", "f", 1),
                resamples=int(about["resamples"]),
            )
        return cls(sides[0], sides[1], changes, rediscovery)

    def rows(self) -> list[dict[str, Any]]:
        """One record an edge of either circuit or called changed, the largest change first."""
        shown = (self.before | self.after).kept
        if self.changes is not None:
            shown = shown | self.changes.called(Decision.CHANGED)
        edges = np.flatnonzero(shown)
        if self.scores is not None:
            size = np.abs(self.scores[1] - self.scores[0])[edges]
            edges = edges[np.argsort(-size, kind="stable")]
        return [self._row(int(edge)) for edge in edges]

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values; edges by name, numbers that do not exist null."""
        edges = {name: getattr(self, name) for name in ("kept", "lost", "gained", "flipped")}
        wiring = self.before.wiring
        return {
            "edges_before": self.before.n_edges,
            "edges_after": self.after.n_edges,
            "edges": {name: None if m is None else int(m.sum()) for name, m in edges.items()},
            "edge_names": {
                name: [wiring.edge_name(int(edge)) for edge in np.flatnonzero(mask)]
                for name, mask in edges.items()
                if mask is not None and name != "kept"
            },
            "nodes": {
                "kept": list(self.nodes_kept),
                "lost": list(self.nodes_lost),
                "gained": list(self.nodes_gained),
            },
            "jaccard": self.jaccard,
            "node_jaccard": self.node_jaccard,
            "rank_correlation": _plain(self.correlation),
            "union_rank_correlation": _plain(self.union_correlation),
            "dissimilarity": self.dissimilarity,
            "by_layer": [vars(mass) for mass in self.by_layer()],
            "by_role": [vars(mass) for mass in self.by_role()],
            "by_span": [vars(mass) for mass in self.by_span()],
            "noise": None
            if self.changes is None
            else {"counts": self.changes.counts(), **self.changes.as_dict()},
            "rediscovery": None if self.rediscovery is None else self.rediscovery.as_dict(),
            "differing_settings": {
                key: list(pair) for key, pair in self.differing_settings().items()
            },
        }

    def _nodes(self, operation: Callable[..., np.ndarray]) -> tuple[str, ...]:
        names = node_names(self.before.wiring)
        mask = operation(node_mask(self.before), node_mask(self.after))
        return tuple(names[place] for place in np.flatnonzero(mask))

    def _by_source(self, groups: Sequence[str], names: Sequence[str]) -> tuple[Mass, ...]:
        """Mass by the group of each source."""
        places = np.array([names.index(group) for group in groups])
        return self._mass(places[self.before.wiring.edge_src], names)

    def _mass(self, place: Int[np.ndarray, " edge"], names: Sequence[str]) -> tuple[Mass, ...]:
        """Mass by the place of each edge among the names."""
        if self.scores is None:
            return ()
        before, after = (values.astype(np.float64) for values in self.scores)
        columns = [np.abs(before), np.abs(after), np.abs(after - before)]
        counts = np.bincount(place, minlength=len(names))
        sums = [np.bincount(place, column, len(names)) for column in columns]
        share = sums[2] / sums[2].sum() if sums[2].any() else np.zeros(len(names))
        changed: Sequence[int | None] = [None] * len(names)
        if self.changes is not None:
            called = self.changes.called(Decision.CHANGED).astype(float)
            changed = np.bincount(place, called, len(names)).astype(int).tolist()
        numbers = (counts.tolist(), *(column.tolist() for column in sums), share.tolist())
        return tuple(Mass(*row) for row in zip(names, *numbers, changed, strict=True))

    def _row(self, edge: int) -> dict[str, Any]:
        wiring = self.before.wiring
        inside = (bool(self.before.kept[edge]), bool(self.after.kept[edge]))
        status = {(True, True): "kept", (True, False): "lost", (False, True): "gained"}
        flipped = self.flipped is not None and bool(self.flipped[edge])
        row: dict[str, Any] = {
            "edge": wiring.edge_name(edge),
            "layer": node_layer(wiring.src_names[wiring.edge_src[edge]]),
            "status": "flipped" if flipped else status.get(inside, "outside"),
        }
        if self.scores is not None:
            before, after = (float(values[edge]) for values in self.scores)
            row |= {"before": before, "after": after, "change": after - before}
            row["flipped"] = flipped
        if self.changes is not None:
            for name in ("low", "high", "q_changed", "q_unchanged"):
                row[name] = float(getattr(self.changes, name)[edge])
            row["decision"] = str(self.changes.decision(edge))
        if self.rediscovery is not None:
            row["found_before"] = float(self.rediscovery.before[edge])
            row["found_after"] = float(self.rediscovery.after[edge])
        return row


def _side(metadata: Mapping[str, Any], side: str) -> dict[str, Any]:
    """What describes one circuit; in older files both share a geometry."""
    about = metadata.get(side)
    if not isinstance(about, dict):
        raise ContentError(f"lacks the circuit {side}")
    return {"geometry": metadata.get("geometry"), "edge_order": EDGE_ORDER, **about}


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(correlation: RankCorrelation | None) -> dict[str, float | None] | None:
    if correlation is None:
        return None
    return {name: x if np.isfinite(x) else None for name, x in vars(correlation).items()}


def _settings(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What scores of this provenance were made with, as a file has it."""
    found = {key: plain(origin[key]) for key in DECIDES_SCORES if key in origin}
    own = origin.get("options")
    if isinstance(own, Mapping):
        found |= {f"{origin.get('method')}.{name}": plain(value) for name, value in own.items()}
    return found
