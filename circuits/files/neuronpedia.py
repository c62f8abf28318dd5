"""Attribution graphs as JSON, as Neuronpedia's graph viewer and circuit-tracer exchange them.

The schema (Neuronpedia, `graph-schema.json` 1.0.0; circuit-tracer, Hanna et al. 2025) has nodes at
a token position (`ctx_idx`) and a layer, links with a signed weight, and `metadata` on prompt and
model. `check_graph` states it as we hold files to it, which is stricter in what the viewer needs:
ids are unique, links join nodes, positions lie within the prompt.

What a circuit is in it. A head is a node of type `attention head`, an MLP `mlp`, the input
`embedding`, the logits `logit`; a link's weight is the sum of the scores of the edges between two
nodes (1 an edge without scores). A key or value that several heads share is no node: its score goes
in equal parts to the heads of its group that are in the circuit, as in EAP-IG's files. Edges of a
circuit are sums over token positions, for which the schema has no word: all nodes stand at one
position, named `(all positions)`. What the schema does not know goes under the key `kc`, which
viewers ignore; with it, `circuit_of` gives back the kept edges with their scores. Scores of edges
that are not kept are not in the file, and are 0 afterwards.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.arrays import ContentError, single_precision
from circuits.base.errors import CircuitFileError, FileFormatError, OptionError
from circuits.base.origin import timestamp
from circuits.base.plain import plain
from circuits.base.records import read_text
from circuits.base.writing import to_json
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.geometry import stored_wiring
from circuits.model.wiring import Wiring, node_kind, node_layer

ALL_POSITIONS = "(all positions)"
HEAD, MLP, EMBEDDING, LOGIT = "attention head", "mlp", "embedding", "logit"
TYPES = {"head": HEAD, "mlp": MLP, "input": EMBEDDING, "logits": LOGIT}
URL = "https://pypi.org/project/knowledge-circuits"
COLUMN_TYPES = ("bool", "int64", "float32", "float64")
MAX_BYTES = 10**9
LARGEST = 2**63 - 1
_OF_GRAPH: Mapping[str, type] = {"metadata": dict, "qParams": dict, "nodes": list, "links": list}
_OF_METADATA = ("slug", "scan", "prompt")
_OF_NODE = ("node_id", "jsNodeId", "clerp", "feature_type")


def to_neuronpedia(circuit: Circuit, slug: str = "") -> str:
    """The kept subgraph as JSON text; `slug` names the graph, by default relation and model."""
    return to_json(graph_of(circuit, slug), indent=1) + "\n"


def graph_of(circuit: Circuit, slug: str = "") -> dict[str, Any]:
    """The kept subgraph as a document of the schema."""
    origin = circuit.provenance
    names = [name for name in circuit.nodes() if node_kind(name) != "kv"]
    names = list(dict.fromkeys(["input", *names, *_served(circuit), "logits"]))
    pinned = {"input", "logits", *circuit.roles}
    title = " in ".join(str(origin[key]) for key in ("relation", "model") if origin.get(key))
    document = {
        "metadata": {
            "slug": _slug(slug or title or "circuit"),
            "scan": str(origin.get("model", "unknown")),
            "prompt_tokens": [ALL_POSITIONS],
            "prompt": _prompt(circuit),
            "info": {
                "description": _description(circuit, title),
                "generator": {"name": "Knowledge Circuits", "url": URL},
                "create_time_ms": _milliseconds(),
            },
            "generation_settings": _settings(circuit),
        },
        "qParams": {
            "pinnedIds": [_id(circuit.wiring, name) for name in names if name in pinned],
            "supernodes": _by_role(circuit, names),
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [_node(circuit, name) for name in names],
        "links": _links(circuit),
        "kc": _own(circuit),
    }
    checked: dict[str, Any] = plain(document)
    return checked


def circuit_of(document: Mapping[str, Any]) -> Circuit:
    """The circuit that `graph_of` wrote; ContentError where the part of ours says no such thing."""
    own = document.get("kc")
    if not isinstance(own, Mapping):
        raise ContentError("is another tool's attribution graph: its nodes are no heads and MLPs")
    wiring = stored_wiring(own)
    scored, edges, types = own.get("scored"), own.get("edges"), own.get("columns")
    if (
        not isinstance(scored, bool)
        or not isinstance(edges, Mapping)
        or not isinstance(types, Mapping)
    ):
        raise ContentError("has no circuit under 'kc'")
    if not set(types.values()) <= set(COLUMN_TYPES):
        raise ContentError(f"has columns of types other than {', '.join(COLUMN_TYPES)}")
    try:
        index = [wiring.edge_index(name) for name in edges]
    except OptionError as reason:
        raise ContentError(f"has an edge that the model has not: {reason}") from None
    rows = list(edges.values())
    if not all(isinstance(row, list) and all(map(_is_value, row)) for row in rows):
        raise ContentError("has an edge without its list of numbers")
    if any(len(row) != scored + len(types) for row in rows):
        raise ContentError("has an edge with too many or too few numbers")
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[index] = True
    scores = None
    if scored:
        values = np.zeros(wiring.n_edges)
        values[index] = [row[0] for row in rows]
        scores = EdgeScores(
            wiring, single_precision(values), provenance=_mapping(own, "scores_provenance")
        )
    columns = {}
    for place, (name, kind) in enumerate(types.items(), start=int(scored)):
        columns[name] = np.zeros(wiring.n_edges, dtype=kind)
        columns[name][index] = [row[place] for row in rows]
    return Circuit(
        wiring, kept, scores, columns, _mapping(own, "roles"), _mapping(own, "provenance")
    )


def _mapping(own: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = own.get(name, {})
    if not isinstance(found, Mapping):
        raise ContentError(f"has no names and values under {name!r}")
    return dict(found)


def is_graph(path: str | Path) -> bool:
    """Whether a JSON file looks like an attribution graph, and not like EAP-IG's circuit."""
    text = read_text(path, MAX_BYTES)
    return all(f'"{key}"' in text for key in ("qParams", "nodes", "links"))


def read_graph(path: str | Path) -> dict[str, Any]:
    """A checked document from a file; FileFormatError says what is wrong with it."""
    try:
        document = json.loads(read_text(path, MAX_BYTES))
        check_graph(document)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, f"is no JSON: {error}"[:200]) from None
    except ContentError as reason:
        raise FileFormatError(path, str(reason)) from None
    return dict(document)


def load_neuronpedia(path: str | Path) -> Circuit:
    """The circuit in an attribution graph that this project wrote; CircuitFileError else."""
    document = read_graph(path)
    try:
        return circuit_of(document)
    except ContentError as reason:
        raise CircuitFileError(path, str(reason)) from None


def check_graph(document: Any) -> None:
    """ContentError where a document is no attribution graph of the schema; it names the place."""
    if not isinstance(document, Mapping):
        raise ContentError("is no attribution graph: no JSON object")
    for key, kind in _OF_GRAPH.items():
        if not isinstance(document.get(key), kind):
            raise ContentError(f"is no attribution graph: it lacks {key!r}")
    about = document["metadata"]
    for key in _OF_METADATA:
        if not isinstance(about.get(key), str):
            raise ContentError(f"metadata lacks the text {key!r}")
    tokens = about.get("prompt_tokens")
    if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
        raise ContentError("metadata lacks the list of texts 'prompt_tokens'")
    ids = set()
    for place, node in enumerate(document["nodes"]):
        _check_node(place, node, len(tokens))
        if node["node_id"] in ids:
            raise ContentError(f"has two nodes {node['node_id']!r:.60}")
        ids.add(node["node_id"])
    for place, link in enumerate(document["links"]):
        _check_link(place, link, ids)


def _check_node(place: int, node: Any, n_tokens: int) -> None:
    if not isinstance(node, Mapping):
        raise ContentError(f"node {place} is no object")
    for key in _OF_NODE:
        if not isinstance(node.get(key), str):
            raise ContentError(f"node {place} lacks the text {key!r}")
    if "feature" not in node or not _is_integer(node["feature"], or_none=True):
        raise ContentError(f"node {place} lacks the integer (or null) 'feature'")
    layer = node.get("layer")
    if not isinstance(layer, str) and not _is_integer(layer):
        raise ContentError(f"node {place} lacks 'layer', a text or an integer")
    at = node.get("ctx_idx")
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < max(1, n_tokens):
        raise ContentError(
            f"node {place} has no 'ctx_idx' within the {n_tokens} tokens of the prompt"
        )
    for key in ("influence", "activation"):
        if not _is_number(node.get(key, 0.0), or_none=True):
            raise ContentError(f"node {place} has a {key!r} that is no number")


def _check_link(place: int, link: Any, ids: set[str]) -> None:
    if not isinstance(link, Mapping):
        raise ContentError(f"link {place} is no object")
    for key in ("source", "target"):
        if link.get(key) not in ids:
            raise ContentError(f"link {place} has a {key} {link.get(key)!r:.60} that is no node")
    if not _is_number(link.get("weight")):
        raise ContentError(f"link {place} lacks the number 'weight'")


def _is_value(value: Any) -> bool:
    return isinstance(value, bool) or _is_number(value)


def _is_integer(value: Any, or_none: bool = False) -> bool:
    return (or_none and value is None) or (isinstance(value, int) and not isinstance(value, bool))


def _is_number(value: Any, or_none: bool = False) -> bool:
    if value is None:
        return or_none
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST if isinstance(value, int) else math.isfinite(value)


def _node(circuit: Circuit, name: str) -> dict[str, Any]:
    """A node of the schema. `feature` is the head's number in its layer, and above them the MLP's:
    the viewer tells nodes apart by layer, feature and position."""
    wiring, role = circuit.wiring, circuit.roles.get(name, "")
    layer, index = _place(wiring, name)
    identity = _id(wiring, name)
    label = f"{name} ({role})" if role else name
    if name == "logits":  # the viewer reads a probability from the label, and fails where none is
        label = "answer over foil, in logits (p=?)"
    return {
        "node_id": identity,
        "feature": index,
        "layer": layer,
        "ctx_idx": 0,
        "feature_type": TYPES[node_kind(name)],
        "jsNodeId": identity,
        "clerp": label,
    }


def _place(wiring: Wiring, name: str) -> tuple[str, int]:
    """The layer as the schema writes it, and the node's number within it."""
    kind = node_kind(name)
    if kind == "input":
        return "E", 0
    if kind == "logits":
        return str(wiring.n_layers + 1), 0
    index = wiring.n_heads if kind == "mlp" else int(name.rpartition("h")[2])
    return str(node_layer(name)), index


def _id(wiring: Wiring, name: str) -> str:
    layer, index = _place(wiring, name)
    return f"{layer}_{index}_0"


def _served(circuit: Circuit) -> list[str]:
    """Heads that read a kept key or value of their group, whether or not they write anything."""
    readers = _readers(circuit)
    return list(dict.fromkeys(head for heads in readers.values() for head in heads))


def _readers(circuit: Circuit) -> dict[str, list[str]]:
    """Who reads what arrives at a node: itself, or of a shared key or value the circuit's heads."""
    wiring, kept = circuit.wiring, circuit.kept
    writing = {wiring.src_names[src] for src in np.unique(wiring.edge_src[kept])}
    found = {}
    for node in dict.fromkeys(wiring.dst_nodes[dst] for dst in np.unique(wiring.edge_dst[kept])):
        group = wiring.heads_of(node)
        found[node] = [head for head in group if head in writing] or group
    return found


def _links(circuit: Circuit) -> list[dict[str, Any]]:
    """A link for each two nodes that kept edges join, with the sum of their scores."""
    wiring, readers = circuit.wiring, _readers(circuit)
    sums: dict[tuple[str, str], float] = {}
    for edge in circuit.edges():
        source = wiring.src_names[wiring.edge_src[edge]]
        heads = readers[wiring.dst_nodes[wiring.edge_dst[edge]]]
        score = 1.0 if circuit.scores is None else float(circuit.scores.values[edge])
        for head in heads:
            pair = _id(wiring, source), _id(wiring, head)
            sums[pair] = sums.get(pair, 0.0) + score / len(heads)
    return [{"source": a, "target": b, "weight": weight} for (a, b), weight in sums.items()]


def _by_role(circuit: Circuit, names: Sequence[str]) -> list[list[str]]:
    """Heads of one role as a supernode: its name, then their ids."""
    ranked = sorted((role, name) for name, role in circuit.roles.items() if name in names)
    return [
        [role, *(_id(circuit.wiring, name) for _, name in members)]
        for role, members in groupby(ranked, key=lambda each: each[0])
    ]


def _own(circuit: Circuit) -> dict[str, Any]:
    """What gives the circuit back: geometry, roles, and every kept edge's score and columns."""
    scores, columns = circuit.scores, circuit.columns
    rows = {}
    for edge in circuit.edges():
        row = [] if scores is None else [float(np.float32(scores.values[edge]))]
        row += [column[edge].item() for column in columns.values()]
        rows[circuit.wiring.edge_name(edge)] = row
    found = {
        "geometry": circuit.wiring.geometry(),
        "scored": scores is not None,
        "columns": {name: str(column.dtype) for name, column in columns.items()},
        "edges": rows,
        "roles": dict(circuit.roles),
        "provenance": dict(circuit.provenance),
    }
    return found if scores is None else {**found, "scores_provenance": dict(scores.provenance)}


def _prompt(circuit: Circuit) -> str:
    """The first prompt that was asked, else the relation's name."""
    pairs = circuit.evidence.get("pairs")
    first = pairs[0] if isinstance(pairs, list) and pairs else None
    if isinstance(first, Mapping) and isinstance(first.get("clean"), str):
        more = f" (and {len(pairs or ()) - 1} more)" if len(pairs or ()) > 1 else ""
        return f"{first['clean']}{more}"
    return str(circuit.provenance.get("prompt") or circuit.provenance.get("relation") or "unknown")


def _description(circuit: Circuit, title: str) -> str:
    size = f"{circuit.n_edges} of {circuit.wiring.n_edges} edges"
    return (
        f"Knowledge circuit{f' of {title}' if title else ''}: {size}. Nodes are attention heads "
        "and MLPs, not features; a link's weight is the sum of its edges' scores over positions."
    )


def _settings(circuit: Circuit) -> dict[str, Any]:
    names = ("method", "metric", "ablation", "steps", "pairs", "seed")
    return {name: circuit.provenance[name] for name in names if name in circuit.provenance}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "circuit"


def _milliseconds() -> int:
    return round(1000 * datetime.fromisoformat(timestamp()).timestamp())
