"""Geometry of a circuit as index arithmetic, and the two values that live on it.

A transformer's residual stream is a graph whose *sources* write to it and whose *destinations*
read from it. Sources, in the order in which they write: `input` (the token embedding), then for
each layer its heads `aL.hH` and its MLP `mL`. Destinations: each head's query, key and value
input, each MLP's input, and `logits`. A destination reads every source before it, so the sources
of a destination are always a prefix of the source order; that makes all bookkeeping arithmetic.

With grouped-query attention (GQA) several query heads share one key-value head. `KeyValue.GROUPED`
has one key and one value destination a key-value head (`a5.kv1<k>`), the model's true wiring;
`KeyValue.PER_QUERY_HEAD` has one a query head (`a5.h3<k>`), the convention of EAP-IG's files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.choices import KeyValue
from circuits.errors import OptionError

SLOTS = ("q", "k", "v")


@dataclass(frozen=True)
class Wiring:
    """All edges that a model of this geometry has; canonical edge order is by destination."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    kv: KeyValue = KeyValue.GROUPED

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1:
            raise OptionError("a wiring needs at least one layer, one head and one key-value head")
        if self.n_heads % self.n_kv_heads:
            raise OptionError(
                f"{self.n_heads} heads cannot share {self.n_kv_heads} key-value heads evenly"
            )

    @property
    def is_grouped(self) -> bool:
        """True where a key or value destination serves more than one query head."""
        return self.kv is KeyValue.GROUPED and self.n_kv_heads != self.n_heads

    @property
    def n_key_inputs(self) -> int:
        """Key destinations a layer (as many as value destinations)."""
        return self.n_kv_heads if self.kv is KeyValue.GROUPED else self.n_heads

    @property
    def queries_per_key(self) -> int:
        """Query heads served by one key destination."""
        return self.n_heads // self.n_key_inputs

    @property
    def n_attn(self) -> int:
        """Attention destinations a layer: queries, then keys, then values."""
        return self.n_heads + 2 * self.n_key_inputs

    @property
    def n_src(self) -> int:
        """Number of sources."""
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def n_dst(self) -> int:
        """Number of destinations."""
        return self.n_layers * (self.n_attn + 1) + 1

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.n_sources_of_dst.sum())

    def head_src(self, layer: int, head: int = 0) -> int:
        """Source index of a head."""
        return 1 + layer * (self.n_heads + 1) + head

    def mlp_src(self, layer: int) -> int:
        """Source index of an MLP."""
        return 1 + layer * (self.n_heads + 1) + self.n_heads

    def attn_dst(self, layer: int) -> int:
        """Index of the first attention destination of a layer."""
        return layer * (self.n_attn + 1)

    def mlp_dst(self, layer: int) -> int:
        """Destination index of an MLP."""
        return layer * (self.n_attn + 1) + self.n_attn

    @property
    def logits_dst(self) -> int:
        """Destination index of the logits."""
        return self.n_dst - 1

    @cached_property
    def n_sources_of_dst(self) -> Int[np.ndarray, " dst"]:
        """How many sources, counted from `input`, each destination reads."""
        counts = np.empty(self.n_dst, dtype=np.int64)
        for layer in range(self.n_layers):
            start = self.attn_dst(layer)
            counts[start : start + self.n_attn] = self.head_src(layer)
            counts[start + self.n_attn] = self.mlp_src(layer)
        counts[-1] = self.n_src
        return counts

    @cached_property
    def mask(self) -> Bool[np.ndarray, "src dst"]:
        """True where an edge exists."""
        return np.arange(self.n_src)[:, None] < self.n_sources_of_dst[None, :]

    @cached_property
    def edge_dst(self) -> Int[np.ndarray, " edge"]:
        """Destination of each edge, in canonical order."""
        return np.repeat(np.arange(self.n_dst), self.n_sources_of_dst)

    @cached_property
    def edge_src(self) -> Int[np.ndarray, " edge"]:
        """Source of each edge, in canonical order."""
        starts = np.repeat(self._first_edge, self.n_sources_of_dst)
        return np.arange(self.n_edges) - starts

    @cached_property
    def _first_edge(self) -> Int[np.ndarray, " dst"]:
        return np.concatenate([[0], np.cumsum(self.n_sources_of_dst)[:-1]])

    @cached_property
    def src_names(self) -> tuple[str, ...]:
        """Names of the sources: `input`, `a0.h0`, ..., `m0`, ..."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names.append(f"m{layer}")
        return tuple(names)

    @cached_property
    def dst_nodes(self) -> tuple[str, ...]:
        """The node that each destination belongs to (`a5.kv1` for a shared key or value)."""
        unit = "kv" if self.is_grouped else "h"
        names: list[str] = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names += [f"a{layer}.{unit}{index}" for index in range(self.n_key_inputs)] * 2
            names.append(f"m{layer}")
        return (*names, "logits")

    @cached_property
    def dst_slots(self) -> tuple[str, ...]:
        """`q`, `k` or `v` for an attention destination, else the empty string."""
        layer = ["q"] * self.n_heads + ["k"] * self.n_key_inputs + ["v"] * self.n_key_inputs + [""]
        return (*(layer * self.n_layers), "")

    @cached_property
    def dst_names(self) -> tuple[str, ...]:
        """Names of the destinations: `a0.h0<q>`, `m0`, `logits`, ..."""
        return tuple(
            f"{node}<{slot}>" if slot else node
            for node, slot in zip(self.dst_nodes, self.dst_slots, strict=True)
        )

    @cached_property
    def _src_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.src_names)}

    @cached_property
    def _dst_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.dst_names)}

    def edge_name(self, edge: int | np.integer) -> str:
        """`a5.h3->a9.h1<q>` for an edge index."""
        return f"{self.src_names[self.edge_src[edge]]}->{self.dst_names[self.edge_dst[edge]]}"

    def edge_index(self, name: str) -> int:
        """Edge index of a name; OptionError where there is no such edge."""
        source, arrow, destination = name.partition("->")
        src, dst = self._src_index.get(source), self._dst_index.get(destination)
        if not arrow or src is None or dst is None:
            raise OptionError(f"no edge {name!r} in a model of {self.describe()}")
        if src >= self.n_sources_of_dst[dst]:
            raise OptionError(
                f"edge {name!r} points down: {source} writes after {destination} reads"
            )
        return int(self._first_edge[dst] + src)

    def heads_of(self, node: str) -> list[str]:
        """Query heads that a node feeds: the group of a `kv` node, or the head itself."""
        match = re.fullmatch(r"a(\d+)\.kv(\d+)", node)
        if match is None:
            return [node]
        layer, group = int(match[1]), int(match[2])
        size = self.n_heads // self.n_kv_heads
        return [f"a{layer}.h{head}" for head in range(group * size, (group + 1) * size)]

    def to_matrix(self, edges: np.ndarray, fill: Any = 0) -> np.ndarray:
        """Edge values as `[src, dst]`, `fill` where there is no edge."""
        matrix = np.full((self.n_src, self.n_dst), fill, dtype=edges.dtype)
        matrix[self.edge_src, self.edge_dst] = edges
        return matrix

    def from_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """`[..., src, dst]` to `[..., edge]` in canonical order."""
        return matrix[..., self.edge_src, self.edge_dst]

    def with_kv(self, kv: KeyValue) -> Wiring:
        """The same model with another convention for keys and values."""
        return replace(self, kv=kv)

    def describe(self) -> str:
        """Geometry in words, for messages."""
        heads = f"{self.n_layers} layers, {self.n_heads} heads"
        shared = f", {self.n_kv_heads} key-value heads" if self.n_kv_heads != self.n_heads else ""
        return f"{heads}{shared} ({self.kv} keys and values)"


def node_layer(node: str) -> int | None:
    """Layer of a node's name; None for `input` and `logits`."""
    match = re.match(r"[am](\d+)", node)
    return int(match[1]) if match else None


def node_kind(node: str) -> str:
    """`input`, `head`, `kv`, `mlp` or `logits`."""
    if node in ("input", "logits"):
        return node
    if node.startswith("m"):
        return "mlp"
    return "kv" if ".kv" in node else "head"


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """One score an edge: an estimate of m(clean) - m(edge corrupted); positive supports the fact.

    `per_pair`, where kept, holds one row an example, whose mean is `values`: resampling examples
    is then array work. `provenance` says which model, method, parameters and data gave the numbers.
    """

    wiring: Wiring
    values: Float[np.ndarray, " edge"]
    per_pair: Float[np.ndarray, "pair edge"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.shape != (self.wiring.n_edges,):
            raise OptionError(
                f"{self.values.shape[0]} scores do not fit {self.wiring.describe()}, "
                f"which has {self.wiring.n_edges} edges"
            )
        object.__setattr__(self, "provenance", dict(self.provenance))

    def matrix(self) -> Float[np.ndarray, "src dst"]:
        """Scores as a matrix, 0 where there is no edge."""
        return self.wiring.to_matrix(self.values)

    def __getitem__(self, edge: str) -> float:
        return float(self.values[self.wiring.edge_index(edge)])

    def grouped(self) -> EdgeScores:
        """Key and value scores summed over the query heads that share a key-value head."""
        old, new = self.wiring, self.wiring.with_kv(KeyValue.GROUPED)
        if old.n_key_inputs == new.n_key_inputs:
            return replace(self, wiring=new)
        size = old.n_heads // old.n_kv_heads

        def merge(values: np.ndarray) -> np.ndarray:
            shape = values.shape[:-1]
            matrix = np.zeros((*shape, old.n_src, old.n_dst), dtype=values.dtype)
            matrix[..., old.edge_src, old.edge_dst] = values
            body = matrix[..., :-1].reshape(*shape, old.n_src, old.n_layers, -1)
            heads = old.n_heads
            queries, mlp = body[..., :heads], body[..., -1:]
            keys_values = body[..., heads:-1].reshape(*body.shape[:-1], 2 * old.n_kv_heads, size)
            merged = np.concatenate([queries, keys_values.sum(-1), mlp], axis=-1)
            merged = merged.reshape(*shape, old.n_src, -1)
            return new.from_matrix(np.concatenate([merged, matrix[..., -1:]], axis=-1))

        per_pair = None if self.per_pair is None else merge(self.per_pair)
        return replace(self, wiring=new, values=merge(self.values), per_pair=per_pair)


@dataclass(frozen=True, eq=False)
class Circuit:
    """A subset of a wiring's edges, with what is known about them.

    `columns` are further values an edge (`inclusion`, `low`, `high`, ...) in canonical order;
    `roles` names a node's role. Circuits combine with `&`, `|`, `-` and `~`; none of these changes
    its arguments, and a combination keeps the left side's scores, columns, roles and provenance.
    """

    wiring: Wiring
    kept: Bool[np.ndarray, " edge"]
    scores: EdgeScores | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_edges = self.wiring.n_edges
        if self.kept.shape != (n_edges,) or self.kept.dtype != np.bool_:
            raise OptionError(f"`kept` must hold {n_edges} booleans, one an edge")
        if self.scores is not None and self.scores.wiring != self.wiring:
            raise OptionError("the scores belong to another wiring than the circuit")
        for name, column in self.columns.items():
            if column.shape != (n_edges,):
                raise OptionError(f"column {name!r} must hold {n_edges} values, one an edge")
        for name in ("columns", "roles", "provenance"):
            object.__setattr__(self, name, dict(getattr(self, name)))

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

    def edges(self) -> Iterator[int]:
        """Indices of the kept edges, in canonical order."""
        return iter(np.flatnonzero(self.kept).tolist())

    def edge_names(self) -> list[str]:
        """Names of the kept edges, in canonical order."""
        return [self.wiring.edge_name(edge) for edge in self.edges()]

    def matrix(self) -> Bool[np.ndarray, "src dst"]:
        """Kept edges as a matrix."""
        return self.wiring.to_matrix(self.kept, fill=False)

    def nodes(self) -> list[str]:
        """Nodes that a kept edge touches, in residual-stream order (`kv` after the heads)."""
        kept = np.flatnonzero(self.kept)
        touched = {self.wiring.src_names[src] for src in np.unique(self.wiring.edge_src[kept])}
        touched |= {self.wiring.dst_nodes[dst] for dst in np.unique(self.wiring.edge_dst[kept])}
        return sorted(touched, key=_node_order)

    def _combined(self, other: Circuit, operation: Callable[..., np.ndarray]) -> Circuit:
        if other.wiring != self.wiring:
            raise OptionError(
                f"circuits of {self.wiring.describe()} and of {other.wiring.describe()} "
                "cannot be combined"
            )
        return replace(self, kept=operation(self.kept, other.kept))

    def __and__(self, other: Circuit) -> Circuit:
        return self._combined(other, np.logical_and)

    def __or__(self, other: Circuit) -> Circuit:
        return self._combined(other, np.logical_or)

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combined(other, np.greater)

    def __invert__(self) -> Circuit:
        return replace(self, kept=~self.kept)

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

        Nodes carry `layer`, `kind`, `role` and `score` (sum of the scores leaving the node); edges
        carry `slot`, `score` and the circuit's columns. Shared key-value nodes point to the kept
        heads of their group by edges with `slot="group"`, which are wiring and not counted as
        edges of the circuit.
        """
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
            graph.add_edge(source, wiring.dst_nodes[dst], key=slot)
            graph.edges[source, wiring.dst_nodes[dst], slot].update(extra, slot=slot)
        for name in names:
            if node_kind(name) == "kv":
                for head in wiring.heads_of(name):
                    if head in graph:
                        graph.add_edge(name, head, key="group", slot="group")
        return graph


def _node_order(node: str) -> tuple[int, int, int]:
    kind = node_kind(node)
    if kind in ("input", "logits"):
        return (-1 if kind == "input" else 1 << 30, 0, 0)
    layer = node_layer(node) or 0
    index = int(re.sub(r"\D", "", node.partition(".")[2]) or 0)
    return (layer, {"head": 0, "kv": 1, "mlp": 2}[kind], index)


def _plain(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if isinstance(value, str | int | float)}
