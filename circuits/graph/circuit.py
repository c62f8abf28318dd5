"""Circuits: subsets of a wiring's edges, with their scores (`circuits.graph.scores`).

`circuits.model.wiring` says which edges a model has and what they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from circuits.base.arrays import Layout, save_arrays, single_precision
from circuits.base.choices import Ablation, Meaning, Sign
from circuits.base.display import Summary, is_page, named, paged, plotted
from circuits.base.errors import CircuitFileError, OptionError
from circuits.base.intervals import Interval
from circuits.base.results import Result, within
from circuits.graph.header import COLUMN, EDGE_ORDER, check_circuit
from circuits.graph.scores import SHOWN, EdgeScores, read_only
from circuits.model.geometry import stored_wiring
from circuits.model.wiring import (
    AT,
    Wiring,
    node_kind,
    node_layer,
    node_order,
)

if TYPE_CHECKING:
    import networkx as nx
    import plotly.graph_objects as go

    from circuits.graph.circuit_model import CircuitModel
    from circuits.model.model import Model


_FIRST = ("low", "high", "inclusion")
"""Columns that stand first in a table, in this order; files keep none."""

_MEASURED = ("faithfulness", "faithfulness_on")
"""What provenance holds that was measured on these very edges."""


@dataclass(frozen=True, eq=False)
class Circuit(Result):
    """A subset of a wiring's edges, with what is known about them.

    `columns` are further values an edge (`inclusion`, `low`, `high`, ...) in canonical order;
    `roles` names a node's role; `evidence` is what was measured on it, as plain JSON (`pairs`,
    `evaluation`, `held_out`, `stability`, `roles`). Circuits combine with `&`, `|`, `-` and `~`;
    none of these changes its arguments, and a combination keeps the left side's scores, columns,
    roles and provenance.
    """

    KIND = "circuit"
    FAULT = CircuitFileError

    wiring: Wiring
    kept: Bool[np.ndarray, " edge"]
    scores: EdgeScores | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_edges = self.wiring.n_edges
        if self.kept.shape != (n_edges,) or self.kept.dtype != np.bool_:
            raise OptionError(f"`kept` must hold {n_edges} booleans, one an edge")
        if self.scores is not None and self.scores.wiring != self.wiring:
            raise OptionError("the scores belong to another wiring than the circuit")
        for name, column in self.columns.items():
            if column.shape != (n_edges,):
                raise OptionError(f"column {name!r} must hold {n_edges} values, one an edge")
        columns = {name: read_only(column) for name, column in self.columns.items()}
        object.__setattr__(self, "columns", columns)
        for name in ("roles", "provenance", "evidence"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        object.__setattr__(self, "kept", read_only(self.kept))

    @classmethod
    def full(cls, wiring: Wiring, scores: EdgeScores | None = None) -> Circuit:
        """Every edge kept."""
        return cls(wiring, np.ones(wiring.n_edges, dtype=bool), scores)

    @classmethod
    def empty(cls, wiring: Wiring, scores: EdgeScores | None = None) -> Circuit:
        """No edge kept."""
        return cls(wiring, np.zeros(wiring.n_edges, dtype=bool), scores)

    @property
    def n_edges(self) -> int:
        """Number of kept edges."""
        return int(self.kept.sum())

    @property
    def measured(self) -> Mapping[str, Any]:
        """The evaluation that its evidence holds, on pairs that did not find it where it can be.

        Empty where there is none; a file may say anything in it.
        """
        for name in ("held_out", "evaluation"):
            found = self.evidence.get(name)
            if isinstance(found, Mapping) and found:
                return found
        return {}

    def measure(self, name: str) -> Interval | None:
        """A measure of that evaluation; None where there is none that can be read."""
        try:
            return Interval.from_dict(self.measured[name])
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def meaning(self) -> Meaning:
        """What its scores say; UNKNOWN of another tool's file that does not say it either."""
        if self.scores is None or self.provenance.get("sign") == Sign.UNKNOWN:
            return Meaning.UNKNOWN
        return self.scores.meaning

    def edges(self) -> Iterator[int]:
        """Indices of the kept edges, in canonical order."""
        return iter(np.flatnonzero(self.kept).tolist())

    def edge_names(self) -> list[str]:
        """Names of the kept edges, in canonical order."""
        return [self.wiring.edge_name(edge) for edge in self.edges()]

    def ranked(self) -> list[int]:
        """Kept edges by |score|, strongest first; in canonical order where there are no scores."""
        kept = np.flatnonzero(self.kept)
        if self.scores is not None:
            kept = kept[np.argsort(-np.abs(self.scores.values[kept]), kind="stable")]
        return kept.tolist()

    def rows(self, n: int | None = None) -> list[dict[str, Any]]:
        """One record for each of the n strongest edges: name, score and columns, where it has any.

        In canonical order where there are no scores.
        """
        records = []
        for edge in self.ranked()[:n]:
            record: dict[str, Any] = {"edge": self.wiring.edge_name(edge)}
            if self.scores is not None:
                record["score"] = float(self.scores.values[edge])
            for name, column in self.columns.items():
                record[name] = float(column[edge])
            records.append(record)
        return records

    def strongest(self, n: int = SHOWN) -> list[tuple[str, ...]]:
        """Name and score, where there is one, of the n strongest edges, as text."""
        names = ("edge",) if self.scores is None else ("edge", "score")
        return [tuple(as_cell(row[name]) for name in names) for row in self.rows(n)]

    def save(self, path: str | Path, include_pairs: bool = False) -> None:
        """Write a `*.kc.safetensors` file; scores of single pairs only with `include_pairs`.

        A path that ends in .html gets a page instead, to be read in any browser.
        """
        if is_page(path):
            paged(self, path)
            return
        save_arrays(path, self.KIND, self.arrays(include_pairs), self.metadata())

    def arrays(self, include_pairs: bool = False) -> dict[str, np.ndarray]:
        """Kept bits, scores (single precision) and columns; scores of single pairs if asked for."""
        arrays = {"in_graph": np.packbits(self.kept)}
        if self.scores is not None:
            arrays["score"] = single_precision(self.scores.values)
            if include_pairs and self.scores.per_pair is not None:
                arrays["per_pair"] = single_precision(self.scores.per_pair)
        return arrays | {COLUMN + name: column for name, column in self.columns.items()}

    def metadata(self) -> dict[str, Any]:
        """Geometry, roles, provenance and evidence, as plain JSON values."""
        found: dict[str, Any] = {
            "geometry": self.wiring.geometry(),
            "edge_order": EDGE_ORDER,
            "n_edges": self.n_edges,
            "roles": self.roles,
            "provenance": self.provenance,
        }
        if self.scores is not None:
            found["scores_provenance"] = self.scores.provenance
        return {**found, "evidence": self.evidence} if self.evidence else found

    @classmethod
    def check_header(cls, layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
        """Refuse, by the header alone, arrays that do not fit the geometry that a file claims."""
        check_circuit(layouts, metadata)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Circuit:
        """The inverse of `arrays` and `metadata`, which `check` has passed."""
        wiring = stored_wiring(metadata)
        kept = np.unpackbits(arrays["in_graph"], count=wiring.n_edges).astype(bool)
        scores = None
        if "score" in arrays:
            origin = metadata.get("scores_provenance", {})
            scores = EdgeScores(wiring, arrays["score"], arrays.get("per_pair"), origin)
        held = within(arrays, COLUMN)
        columns = {name: held[name] for name in (*_FIRST, *held) if name in held}
        about = metadata["roles"], metadata["provenance"], metadata.get("evidence", {})
        return cls(wiring, kept, scores, columns, *about)

    def summary(self) -> Summary:
        """Size, origin, faithfulness where it is known, roles, and the strongest edges."""
        origin, labels = self.provenance, list(self.roles.values())
        facts = named(origin, "model", "relation", "method", "metric")
        known = self.measure("faithfulness")
        if known is None and isinstance(origin.get("faithfulness"), int | float):
            known = Interval(float(origin["faithfulness"]), np.nan, np.nan)
        if known is not None:
            where = f" on {on}" if (on := origin.get("faithfulness_on")) else ""
            n = self.measured.get("n_pairs")
            pairs = f" ({n:,} pairs)" if isinstance(n, int) else ""
            facts["faithfulness"] = f"{known}{where}{pairs}"
        if (random := self.measure("random_faithfulness")) is not None:
            facts["random circuits"] = str(random)
        facts["nodes"] = f"{len(self.nodes()):,}"
        if labels:
            counted = {label: labels.count(label) for label in sorted(set(labels))}
            facts["roles"] = ", ".join(f"{count} {label}" for label, count in counted.items())
        return Summary(
            f"Circuit of {self.n_edges:,} of {self.wiring.n_edges:,} edges",
            facts,
            "strongest edges" if self.scores is not None else "first edges",
            ("edge",) if self.scores is None else ("edge", "score"),
            self.strongest(SHOWN),
        )

    def plot(self, **options: Any) -> go.Figure:
        """Nodes by layer and head; options are those of `viz.screen.circuit_figure`."""
        return plotted(self, **options)

    def as_model(
        self,
        model: Model,
        ablation: Ablation | str | None = None,
        *,
        prompts: Sequence[str] = (),
        constants: Mapping[str, Any] | None = None,
    ) -> CircuitModel:
        """The circuit alone as a model that answers prompts: `.logits(...)` and `.ask(...)`.

        `ablation` says what travels along all other edges, by default as the circuit was found:
        `patch`, what a corrupted prompt brings about, which every call then names; `zero`, nothing;
        `mean`, what a part writes on average over `prompts`, in the model as it is when it is run,
        edits and patches included. `constants` are values of your own for some heads and MLPs, by
        name. OptionError for a circuit of another geometry.
        """
        from circuits.graph.circuit_model import CircuitModel

        return CircuitModel(model, self, ablation, prompts=prompts, constants=constants)

    def matrix(self) -> Bool[np.ndarray, "*span src dst"]:
        """Kept edges as a matrix; by span where spans are told apart."""
        return self.wiring.to_matrix(self.kept, fill=False)

    def blind(self) -> Circuit:
        """The circuit without spans: edges kept in any of them, with the sum of their scores."""
        if not self.wiring.spans:
            return self
        wiring = self.wiring.with_spans()
        kept = np.logical_or.reduce(self.kept.reshape(-1, wiring.n_edges))
        scores = None if self.scores is None else self.scores.blind()
        return self._changed(wiring=wiring, kept=kept, scores=scores, columns={})

    def everywhere(self, spans: Sequence[str]) -> Circuit:
        """The circuit with these spans told apart, and each of its edges kept in all of them.

        It does what this one does. The spans are as of `circuits.facts.spans.named_spans`; scores
        stay behind, for nothing says what part of them belongs where.
        """
        wiring = self.wiring.with_spans(spans)
        kept = np.tile(self.blind().kept, wiring.n_spans)
        return self._changed(wiring=wiring, kept=kept, scores=None, columns={})

    def without(self, *parts: str) -> Circuit:
        """The circuit less these edges (`a5.h3->logits`) and less all edges of these nodes.

        A node is `a5.h3`, `a5.kv0` or `m0` (`Wiring.edges_of`). OptionError for what there is not.
        """
        gone = [self.wiring.edges_of(part) for part in parts]
        return self.keeping(self.kept & ~np.logical_or.reduce(gone))

    def among(self, *nodes: str) -> Circuit:
        """The circuit's edges between these nodes, from the input and to the logits."""
        both = {*nodes, "input", "logits"}
        for node in nodes:
            self.wiring.edges_of(node)  # refuses what there is not
        return self.without(*(node for node in self.nodes() if node not in both))

    def keeping(self, kept: Bool[np.ndarray, " edge"]) -> Circuit:
        """These edges instead; what was measured on this circuit is said of no other."""
        return self._changed(kept=kept)

    def _changed(self, **changes: Any) -> Circuit:
        origin = {name: value for name, value in self.provenance.items() if name not in _MEASURED}
        return replace(self, provenance=origin, evidence={}, **changes)

    def nodes(self) -> list[str]:
        """Nodes that a kept edge touches, in residual-stream order (`kv` after the heads)."""
        kept = np.flatnonzero(self.kept)
        touched = {self.wiring.src_names[src] for src in np.unique(self.wiring.edge_src[kept])}
        touched |= {self.wiring.dst_nodes[dst] for dst in np.unique(self.wiring.edge_dst[kept])}
        return sorted(touched, key=node_order)

    def _combined(self, other: Circuit, operation: Callable[..., np.ndarray]) -> Circuit:
        if other.wiring != self.wiring:
            raise OptionError(
                f"circuits of {self.wiring.describe()} and of {other.wiring.describe()} "
                "cannot be combined"
            )
        return self.keeping(operation(self.kept, other.kept))

    def __and__(self, other: Circuit) -> Circuit:
        return self._combined(other, np.logical_and)

    def __or__(self, other: Circuit) -> Circuit:
        return self._combined(other, np.logical_or)

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combined(other, np.greater)

    def __invert__(self) -> Circuit:
        return self.keeping(~self.kept)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Circuit)
            and self.wiring == other.wiring
            and bool(np.array_equal(self.kept, other.kept))
        )

    __hash__ = None  # type: ignore[assignment]

    def __le__(self, other: Circuit) -> bool:
        return (self & other).n_edges == self.n_edges

    def __repr__(self) -> str:
        return f"Circuit({self.n_edges} of {self.wiring.n_edges} edges, {self.wiring.describe()})"

    def to_networkx(self) -> nx.MultiDiGraph:
        """The kept subgraph: a DiGraph with one parallel edge a slot (key `q`, `k`, `v` or ``).

        Where spans are told apart there is one a slot and span, as `q@subject`, with its `span`.

        Nodes carry `layer`, `kind`, `role` and `score` (sum of the scores leaving the node); edges
        carry `slot`, `score` and the circuit's columns. Shared key-value nodes point to the kept
        heads of their group by edges with `slot="group"`, which are wiring and not counted as
        edges of the circuit.
        """
        import networkx as nx

        graph = nx.MultiDiGraph()
        graph.graph.update(_plain(self.provenance))  # keys from a file may be any names
        wiring, names = self.wiring, self.nodes()
        values = None if self.scores is None else self.scores.values
        for name in names:
            layer = node_layer(name)
            graph.add_node(
                name,
                kind=node_kind(name),
                layer=-1 if name == "input" else wiring.n_layers if layer is None else layer,
                role=self.roles.get(name, ""),
                score=0.0,
            )
        for edge in self.edges():
            source = wiring.src_names[wiring.edge_src[edge]]
            dst = wiring.edge_dst[edge]
            slot = wiring.dst_slots[dst]
            extra = {name: float(column[edge]) for name, column in self.columns.items()}
            if values is not None:
                extra["score"] = float(values[edge])
                graph.nodes[source]["score"] += float(values[edge])
            key, about = slot, {"slot": slot}
            if wiring.spans:
                about["span"] = wiring.spans[wiring.edge_span[edge]]
                key = f"{slot}{AT}{about['span']}"
            graph.add_edge(source, wiring.dst_nodes[dst], key=key)
            graph.edges[source, wiring.dst_nodes[dst], key].update(extra, **about)
        for name in names:
            if node_kind(name) == "kv":
                for head in wiring.heads_of(name):
                    if head in graph:
                        graph.add_edge(name, head, key="group", slot="group")
        return graph


def as_cell(value: str | float) -> str:
    """Four digits of a number; text as it is."""
    return value if isinstance(value, str) else f"{value:.4g}"


def _plain(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if isinstance(value, str | int | float)}
