"""Geometry of a circuit as index arithmetic: which node writes where, and who reads it.

A transformer's residual stream is a graph whose *sources* write to it and whose *destinations*
read from it. Sources, in the order in which they write: `input` (the token embedding), then for
each layer its heads `aL.hH` and its MLP `mL`. Destinations: each head's query, key and value
input, each MLP's input, and `logits`. A destination reads every source before it, so the sources
of a destination are always a prefix of the source order; that makes all bookkeeping arithmetic.
In a *parallel* model a layer's MLP reads what its heads read: no edge leads from these to it.

With grouped-query attention (GQA) several query heads share one key-value head. `KeyValue.GROUPED`
has one key and one value destination a key-value head (`a5.kv1<k>`), the model's true wiring;
`KeyValue.PER_QUERY_HEAD` has one a query head (`a5.h3<k>`), the convention of EAP-IG's files.

A wiring may tell *spans* of the prompt apart (Haklay et al. 2025): an edge then is an edge at the
positions of one span, `a5.h3->m7@subject`, and there is each edge once a span. Which positions
those are is a matter of the prompt (`circuits.facts.spans`). Edges of one span stand together in
canonical order, in the order of `spans`; values of all edges are `[span, src, dst]` as a matrix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from circuits.base.choices import KeyValue
from circuits.base.errors import OptionError

SLOTS = ("q", "k", "v")
GEOMETRY = ("n_layers", "n_heads", "n_kv_heads", "kv")
LAST, OTHERS = "last", "others"
"""The spans that there always are: the last token, which alone reaches the logits, and the rest."""
AT = "@"
"""What parts an edge's name from its span's."""
MAX_SPANS = 64


@dataclass(frozen=True)
class Wiring:
    """All edges that a model of this geometry has; canonical edge order is by destination."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    kv: KeyValue = KeyValue.GROUPED
    parallel: bool = False
    spans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv", KeyValue.of(self.kv))
        if self.spans:
            check_spans(self.spans)
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1:
            raise OptionError("a wiring needs at least one layer, one head and one key-value head")
        if self.n_heads % self.n_kv_heads:
            raise OptionError(
                f"{self.n_heads} heads cannot share {self.n_kv_heads} key-value heads evenly"
            )

    @property
    def is_grouped(self) -> bool:
        """True where a key or value destination serves more than one query head."""
        return self.kv.is_shared and self.n_kv_heads != self.n_heads

    @property
    def n_key_inputs(self) -> int:
        """Key destinations a layer (as many as value destinations)."""
        return self.n_kv_heads if self.kv.is_shared else self.n_heads

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
        """Number of edges; one that spans tell apart counts once a span."""
        return self.n_spans * self.edges_a_span

    @property
    def n_spans(self) -> int:
        """Spans that are told apart; 1 where none are."""
        return len(self.spans) or 1

    @property
    def edges_a_span(self) -> int:
        """Number of edges, wherever in the prompt they are."""
        return int(self.n_sources_of_dst.sum())

    def head_src(self, layer: int, head: int = 0) -> int:
        """Source index of a head."""
        return 1 + layer * (self.n_heads + 1) + head

    def mlp_src(self, layer: int) -> int:
        """Source index of an MLP."""
        return 1 + layer * (self.n_heads + 1) + self.n_heads

    def mlp_reads(self, layer: int) -> int:
        """How many sources, counted from `input`, a layer's MLP reads."""
        return self.head_src(layer) if self.parallel else self.mlp_src(layer)

    @property
    def src_layers(self) -> Int[np.ndarray, " src"]:
        """Layer of each source; -1 for the embedding."""
        return np.concatenate([[-1], np.repeat(np.arange(self.n_layers), self.n_heads + 1)])

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
            counts[start + self.n_attn] = self.mlp_reads(layer)
        counts[-1] = self.n_src
        return counts

    @cached_property
    def mask(self) -> Bool[np.ndarray, "src dst"]:
        """True where an edge exists."""
        return np.arange(self.n_src)[:, None] < self.n_sources_of_dst[None, :]

    @cached_property
    def edge_dst(self) -> Int[np.ndarray, " edge"]:
        """Destination of each edge, in canonical order."""
        once = np.repeat(np.arange(self.n_dst), self.n_sources_of_dst)
        return np.tile(once, self.n_spans)

    @cached_property
    def edge_src(self) -> Int[np.ndarray, " edge"]:
        """Source of each edge, in canonical order."""
        starts = np.repeat(self.first_edge[0], self.n_sources_of_dst)
        return np.tile(np.arange(self.edges_a_span) - starts, self.n_spans)

    @cached_property
    def edge_span(self) -> Int[np.ndarray, " edge"]:
        """Place of each edge's span in `spans`, in canonical order; 0 where none are told apart."""
        return np.repeat(np.arange(self.n_spans), self.edges_a_span)

    @cached_property
    def sees(self) -> Bool[np.ndarray, "span span"]:
        """True where a head at the second span may read keys and values at the first.

        No position reads the last one but itself; of all others this does not know the order.
        """
        found = np.ones((self.n_spans, self.n_spans), dtype=bool)
        if self.spans:
            last = self.last_span
            found[last] = np.arange(self.n_spans) == last
        return found

    @property
    def last_span(self) -> int:
        """Place of the span of the last token; 0 where none are told apart."""
        return self.spans.index(LAST) if self.spans else 0

    @cached_property
    def first_edge(self) -> Int[np.ndarray, "span dst"]:
        """Index of the edge from `input` to each destination; those of its other sources follow."""
        within = np.concatenate([[0], np.cumsum(self.n_sources_of_dst)[:-1]])
        return within + self.edges_a_span * np.arange(self.n_spans)[:, None]

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
        """`a5.h3->a9.h1<q>` for an edge index, with `@subject` where spans are told apart."""
        name = f"{self.src_names[self.edge_src[edge]]}->{self.dst_names[self.edge_dst[edge]]}"
        return f"{name}{AT}{self.spans[self.edge_span[edge]]}" if self.spans else name

    def edge_index(self, name: str) -> int:
        """Edge index of a name; OptionError where there is no such edge."""
        plain, at, span = name.partition(AT)
        if bool(at) != bool(self.spans) or (at and span not in self.spans):
            known = f"edges end with {AT} and one of {', '.join(self.spans)}"
            raise OptionError(
                f"no edge {name!r}: {known if self.spans else 'spans are not told apart here'}"
            )
        source, arrow, destination = plain.partition("->")
        src, dst = self._src_index.get(source), self._dst_index.get(destination)
        if not arrow or src is None or dst is None:
            raise OptionError(f"no edge {name!r} in a model of {self.describe()}")
        if src >= self.n_sources_of_dst[dst]:
            if self.parallel and destination == f"m{node_layer(source)}" != source:
                raise OptionError(
                    f"edge {name!r} does not exist: attention and MLP of a layer are parallel here"
                )
            raise OptionError(
                f"edge {name!r} points down: {source} writes after {destination} reads"
            )
        return int(self.first_edge[self.spans.index(span) if at else 0, dst] + src)

    def edges_of(self, part: str) -> Bool[np.ndarray, " edge"]:
        """The edges that begin or end at a node (`a5.h1`, `a5.kv0`, `m0`), or one edge by its name.

        A head that shares its keys and values has its query and what it writes; what the shared
        ones read is the node `a5.kv0`'s. OptionError for a part that there is not.
        """
        found = np.zeros(self.n_edges, dtype=bool)
        if "->" in part:
            found[self.edge_index(part)] = True
            return found
        if part not in self._src_index and part not in self.dst_nodes:
            raise OptionError(f"no node {part!r} in a model of {self.describe()}")
        ends = np.flatnonzero(np.array(self.dst_nodes) == part)
        return (self.edge_src == self._src_index.get(part, -1)) | np.isin(self.edge_dst, ends)

    def heads_of(self, node: str) -> list[str]:
        """Query heads that a node feeds: the group of a `kv` node, or the head itself."""
        match = re.fullmatch(r"a(\d+)\.kv(\d+)", node)
        if match is None:
            return [node]
        layer, group = int(match[1]), int(match[2])
        size = self.n_heads // self.n_kv_heads
        return [f"a{layer}.h{head}" for head in range(group * size, (group + 1) * size)]

    def to_matrix(self, edges: np.ndarray, fill: Any = 0) -> np.ndarray:
        """`[..., edge]` as `[..., src, dst]`, `fill` where there is no edge; spans before `src`."""
        shape = (*edges.shape[:-1], *((self.n_spans,) if self.spans else ()))
        matrix = np.full((*shape, self.n_src, self.n_dst), fill, dtype=edges.dtype)
        matrix[self._place] = edges
        return matrix

    def from_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `to_matrix`: values of all edges in canonical order."""
        return matrix[self._place]

    @property
    def _place(self) -> tuple[Any, ...]:
        """Where the edges stand in a matrix."""
        ends = self.edge_src, self.edge_dst
        return (..., self.edge_span, *ends) if self.spans else (..., *ends)

    def with_kv(self, kv: KeyValue | str) -> Wiring:
        """The same model with another convention for keys and values."""
        return replace(self, kv=KeyValue.of(kv))

    def with_spans(self, spans: Sequence[str] = ()) -> Wiring:
        """The same model with these spans told apart, by default none."""
        return replace(self, spans=tuple(spans))

    def geometry(self) -> dict[str, Any]:
        """What it is made of, for a file; `parallel` and `spans` stand there where they say it."""
        found = {name: getattr(self, name) for name in GEOMETRY}
        found |= {"parallel": True} if self.parallel else {}
        return found | ({"spans": list(self.spans)} if self.spans else {})

    def describe(self) -> str:
        """Geometry in words, for messages."""
        heads = f"{self.n_layers} layers, {self.n_heads} heads"
        shared = f", {self.n_kv_heads} key-value heads" if self.n_kv_heads != self.n_heads else ""
        parallel = ", attention and MLP in parallel" if self.parallel else ""
        spans = f", by the spans {', '.join(self.spans)}" if self.spans else ""
        return f"{heads}{shared} ({self.kv} keys and values){parallel}{spans}"


def check_spans(spans: Sequence[str]) -> None:
    """OptionError where a wiring cannot tell spans of these names apart."""
    for name in spans:
        apart = AT in name or "," in name or not name.isprintable()
        if not name.strip() or name != name.strip() or apart:
            raise OptionError(f"a span's name is a word without {AT} and comma, not {name!r:.40}")
    if len(set(spans)) < len(spans) or not {LAST, OTHERS} <= set(spans):
        raise OptionError(f"spans are {LAST}, {OTHERS} and more, each named once")
    if len(spans) > MAX_SPANS:
        raise OptionError(f"at most {MAX_SPANS} spans are told apart, not {len(spans)}")


def node_layer(node: str) -> int | None:
    """Layer of a node's name; None for `input` and `logits`."""
    match = re.match(r"[am](\d+)", node)
    return int(match[1]) if match else None


def head_site(head: str) -> tuple[int, int]:
    """Layer and number of a head's name."""
    layer, _, index = head.partition(".")
    return int(layer[1:]), int(index[1:])


def node_kind(node: str) -> str:
    """`input`, `head`, `kv`, `mlp` or `logits`."""
    if node in ("input", "logits"):
        return node
    if node.startswith("m"):
        return "mlp"
    return "kv" if ".kv" in node else "head"


def node_order(node: str) -> tuple[int, int, int]:
    """Sort key of a node's name: the order of the residual stream, `kv` after the heads."""
    kind = node_kind(node)
    if kind in ("input", "logits"):
        return (-1 if kind == "input" else 1 << 30, 0, 0)
    layer = node_layer(node) or 0
    index = int(re.sub(r"\D", "", node.partition(".")[2]) or 0)
    return (layer, {"head": 0, "kv": 1, "mlp": 2}[kind], index)
