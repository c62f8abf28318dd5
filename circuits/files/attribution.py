"""Another tool's attribution graph: features, errors, tokens and logits, and what links them.

circuit-tracer (Hanna et al. 2025) and Neuronpedia write such graphs of one prompt. Their nodes are
features of transcoders and not heads or MLPs, and which heads carry a link is not in the file: such
a graph is no circuit of a model's wiring, cannot be run or compared with one, and is kept as what
it is. It has its numbers, its strongest paths and its graph for networkx. `kc carriers` finds the
heads with the model at hand, and writes them into the links of a copy.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from circuits.base.display import Shown, Summary, token_name
from circuits.base.errors import OptionError
from circuits.files.neuronpedia import EMBEDDING, LOGIT, circuit_of, read_graph
from circuits.graph.circuit import Circuit

SHOWN = 8
"""Paths in a summary."""
CARRIERS = "carriers"
"""The key of a link that says which heads carry it, where `kc carriers` has found that out."""


@dataclass(frozen=True)
class GraphPath:
    """A way through the graph: node ids, the product of its links' shares and that of their signs.

    A link's share is its |weight| over that of all links into the same node.
    """

    nodes: tuple[str, ...]
    share: float
    sign: int


@dataclass(frozen=True, eq=False)
class AttributionGraph(Shown):
    """Nodes as the file has them, links by the places of their ends; `metadata` is the file's.

    `carriers` are, by a link's place, what carries it, where the file says so.
    """

    KIND: ClassVar[str] = "attribution graph"

    nodes: tuple[Mapping[str, Any], ...]
    source: Int[np.ndarray, " link"]
    target: Int[np.ndarray, " link"]
    weight: Float[np.ndarray, " link"]
    metadata: Mapping[str, Any]
    carriers: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> AttributionGraph:
        """From a document that `check_graph` has passed."""
        nodes = tuple(dict(node) for node in document["nodes"])
        place = {node["node_id"]: index for index, node in enumerate(nodes)}
        links = document["links"]
        return cls(
            nodes,
            np.array([place[link["source"]] for link in links], dtype=np.int64),
            np.array([place[link["target"]] for link in links], dtype=np.int64),
            np.array([link["weight"] for link in links], dtype=np.float64),
            dict(document["metadata"]),
            {at: dict(link[CARRIERS]) for at, link in enumerate(links) if _is_carried(link)},
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What the file says of model, prompt and settings."""
        return {"model": self.metadata["scan"], **self.metadata}

    def name(self, place: int) -> str:
        """A node's label for reading: the file's, its token, or its id."""
        node, tokens = self.nodes[place], self.metadata["prompt_tokens"]
        if node["feature_type"] == EMBEDDING and tokens:
            return f"“{token_name(tokens[node['ctx_idx']])}”"
        label = str(node["clerp"]).strip()
        return f"{label} ({node['node_id']})" if label else str(node["node_id"])

    @cached_property
    def shares(self) -> Float[np.ndarray, " link"]:
        """Each link's |weight| over that of all links into its target; 0 where all are 0."""
        size = np.abs(self.weight)
        total = np.bincount(self.target, size, len(self.nodes))[self.target]
        return np.divide(size, total, out=np.zeros_like(size), where=total > 0)

    def rows(self) -> list[dict[str, Any]]:
        """One record a link, the largest |weight| first; `carrier` is the link's strongest."""
        order = np.argsort(-np.abs(self.weight), kind="stable").tolist()
        return [
            {
                "source": self.nodes[self.source[link]]["node_id"],
                "target": self.nodes[self.target[link]]["node_id"],
                "weight": float(self.weight[link]),
                "share": float(self.shares[link]),
                **({"carrier": self.carrier(link)} if self.carriers else {}),
            }
            for link in order
        ]

    def carrier(self, link: int) -> str | None:
        """What carries most of a link: a head, `residual` or `rest`; None where it is not known."""
        parts = self.carriers.get(link)
        return None if parts is None else max(parts, key=lambda name: abs(parts[name]))

    def to_networkx(self) -> nx.DiGraph:
        """Nodes by id with all that the file says of them; links with `weight` and `share`."""
        graph = nx.DiGraph()
        for node in self.nodes:
            graph.add_node(node["node_id"], **{k: v for k, v in node.items() if k != "node_id"})
        ends = zip(self.source.tolist(), self.target.tolist(), strict=True)
        for (a, b), weight, share in zip(ends, self.weight, self.shares, strict=True):
            names = self.nodes[a]["node_id"], self.nodes[b]["node_id"]
            graph.add_edge(*names, weight=float(weight), share=float(share))
        return graph

    def paths(self, n: int = SHOWN, to: str | None = None) -> list[GraphPath]:
        """The n strongest paths from nodes without input to a logit node, exactly.

        `to` is the id of another node to end at; by default every logit counts. OptionError for a
        node that is not there, or a graph with a cycle, in which paths have no end.
        """
        ids = [node["node_id"] for node in self.nodes]
        if to is not None and to not in ids:
            raise OptionError(f"the graph has no node {to!r:.60}")
        if to is not None:
            ends = [ids.index(to)]
        else:
            ends = [at for at, node in enumerate(self.nodes) if node["feature_type"] == LOGIT]
        into: list[list[int]] = [[] for _ in ids]
        for link, target in enumerate(self.target.tolist()):
            into[target].append(link)
        best = self._best(into)
        # Partial paths from the end backwards, by the strongest path that each can become.
        heap = [(-best[end], order, end, (end,), 1.0, 1) for order, end in enumerate(ends)]
        heapq.heapify(heap)
        count = len(heap)
        found: list[GraphPath] = []
        while heap and len(found) < n:
            _, _, at, nodes, share, sign = heapq.heappop(heap)
            if not into[at]:
                if len(nodes) > 1:
                    found.append(GraphPath(tuple(ids[each] for each in nodes), share, sign))
                continue
            for link in into[at]:
                before, step = int(self.source[link]), float(self.shares[link])
                if step * best[before] > 0:
                    count += 1
                    bound = -share * step * best[before]
                    turned = sign * (1 if self.weight[link] > 0 else -1)
                    path = (before, *nodes)
                    heapq.heappush(heap, (bound, count, before, path, share * step, turned))
        return found

    def _best(self, into: list[list[int]]) -> np.ndarray:
        """For each node the share of the strongest path that leads to it."""
        graph = nx.DiGraph(zip(self.source.tolist(), self.target.tolist(), strict=True))
        graph.add_nodes_from(range(len(self.nodes)))
        best = np.zeros(len(self.nodes))
        try:
            for node in nx.topological_sort(graph):
                steps = [self.shares[link] * best[self.source[link]] for link in into[node]]
                best[node] = max(steps, default=1.0)
        except nx.NetworkXUnfeasible:
            raise OptionError("the graph has a cycle: its paths have no end") from None
        return best

    def summary(self) -> Summary:
        """Prompt, nodes by type, links, and the strongest paths."""
        kinds = Counter(str(node["feature_type"]) for node in self.nodes)
        place = {node["node_id"]: at for at, node in enumerate(self.nodes)}
        rows = [
            (
                f"{path.share:.3g}",
                "+" if path.sign > 0 else "−",
                " → ".join(self.name(place[each]) for each in path.nodes),
            )
            for path in self.paths(SHOWN)
        ]
        return Summary(
            f"Attribution graph of “{self.metadata['prompt']}”",
            {
                "model": str(self.metadata["scan"]),
                "nodes": ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()),
                "links": f"{len(self.weight):,}",
                "heads": (
                    f"of {len(self.carriers):,} links the file says what carries them"
                    if self.carriers
                    else "not in the file: which heads carry a link is not known; `kc carriers` "
                    "finds it"
                ),
            },
            "strongest paths, by the product of shares of input",
            ("share", "sign", "path"),
            rows,
        )


def _is_carried(link: Mapping[str, Any]) -> bool:
    """Whether a link says what carries it, in a form that can be read."""
    parts = link.get(CARRIERS)
    if not isinstance(parts, Mapping) or not parts:
        return False
    return all(isinstance(each, int | float) and np.isfinite(each) for each in parts.values())


def load_graph(path: str | Path) -> Circuit | AttributionGraph:
    """The circuit in an attribution graph that this project wrote, or another tool's graph."""
    document = read_graph(path)
    return circuit_of(document) if "kc" in document else AttributionGraph.of(document)
