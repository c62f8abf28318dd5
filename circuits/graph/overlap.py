"""How much circuits have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.model.wiring import Wiring


@dataclass(frozen=True)
class Overlap:
    """Shares (0 to 1) of an integrated circuit that single-hop circuits hold; NaN where empty.

    `nodes` and `edges` count what any of the hops holds; `hop_nodes` and `hop_edges` give each
    hop's own share.
    """

    nodes: float
    edges: float
    hop_nodes: tuple[float, ...]
    hop_edges: tuple[float, ...]


def overlap(integrated: Circuit, hops: Sequence[Circuit]) -> Overlap:
    """Share of a multi-hop question's circuit that the circuits of its single hops hold.

    Yao et al. 2024 report 71 % of the nodes and 49 % of the edges in GPT-2 medium.
    """
    if not hops:
        raise OptionError("the overlap needs the circuit of at least one hop")
    union = hops[0]
    for hop in hops[1:]:
        union = union | hop
    found = [union, *hops]
    own = node_mask(integrated)
    nodes = [_share((own & node_mask(other)).sum(), own.sum()) for other in found]
    edges = [_share((integrated & other).n_edges, integrated.n_edges) for other in found]
    return Overlap(nodes[0], edges[0], tuple(nodes[1:]), tuple(edges[1:]))


def jaccard(left: Circuit, right: Circuit) -> float:
    """Edges of both over edges of either; 1 for two empty circuits."""
    either = (left | right).n_edges
    return (left & right).n_edges / either if either else 1.0


def node_jaccard(left: Circuit, right: Circuit) -> float:
    """Nodes of both over nodes of either; 1 for two empty circuits."""
    one, other = node_mask(left), node_mask(right)
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def node_mask(circuit: Circuit) -> Bool[np.ndarray, " node"]:
    """Which of the wiring's sources, then destinations' nodes, a kept edge touches.

    A head counts once, whether it is touched as a source or as a destination.
    """
    wiring, kept = circuit.wiring, circuit.kept
    index = _node_numbers(wiring)
    mask = np.zeros(max(index.values()) + 1, dtype=bool)
    for names, places in (
        (wiring.src_names, wiring.edge_src[kept]),
        (wiring.dst_nodes, wiring.edge_dst[kept]),
    ):
        mask[[index[names[place]] for place in np.unique(places)]] = True
    return mask


def node_names(wiring: Wiring) -> tuple[str, ...]:
    """The nodes in the order of `node_mask`."""
    return tuple(_node_numbers(wiring))


def _node_numbers(wiring: Wiring) -> dict[str, int]:
    names = dict.fromkeys((*wiring.src_names, *wiring.dst_nodes))
    return {name: number for number, name in enumerate(names)}


def _share(part: int | np.integer, whole: int | np.integer) -> float:
    return float(part) / float(whole) if whole else float("nan")
