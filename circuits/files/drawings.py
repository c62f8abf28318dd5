"""A circuit's kept subgraph as text in the formats of graph tools.

GraphML and GEXF (Gephi, Cytoscape, networkx), DOT (Graphviz), CSV (spreadsheets) and node-link
JSON (d3, networkx). Edges carry a signed `score` and a non-negative `weight` = |score|, as layout
algorithms want it; an edge that ties a shared key or value to a head of its group (`slot` =
"group") has neither score nor weight of its own: its weight is 0. Without scores all weights are 1.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.writing import to_json
from circuits.graph.circuit import Circuit

if TYPE_CHECKING:
    import networkx as nx

# XML 1.0 has no place for these, not even escaped; tab and line breaks do not survive attributes.
_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape_text(text: str) -> str:
    r"""Text without control characters: each becomes `\u....`, and a backslash two."""
    return _UNSAFE.sub(lambda found: r"\\" if found[0] == "\\" else f"\\u{ord(found[0]):04x}", text)


def flat_graph(circuit: Circuit) -> nx.MultiDiGraph:
    """The kept subgraph with plain, escaped attributes only; edge keys are the edges' names."""
    import networkx as nx

    rich, wiring = circuit.to_networkx(), circuit.wiring
    graph = nx.MultiDiGraph(provenance=escape_text(to_json(circuit.provenance)))
    for node, data in rich.nodes(data=True):
        graph.add_node(
            node,
            label=node,
            layer=int(data["layer"]),
            kind=data["kind"],
            role=escape_text(data["role"]),
            score=float(data["score"]),
        )
    for edge in circuit.edges():
        name, dst = wiring.edge_name(edge), wiring.edge_dst[edge]
        ends = wiring.src_names[wiring.edge_src[edge]], wiring.dst_nodes[dst]
        data = {"label": name, "kind": "edge", "slot": wiring.dst_slots[dst], "weight": 1.0}
        if wiring.spans:
            data["span"] = wiring.spans[wiring.edge_span[edge]]
        if circuit.scores is not None:
            score = float(circuit.scores.values[edge])
            data |= {"score": score, "weight": abs(score)}
        for column, values in circuit.columns.items():
            data[f"column.{escape_text(column)}"] = float(values[edge])
        graph.add_edge(*ends, key=name)
        graph.edges[*ends, name].update(data)
    for node, head, slot in rich.edges(keys=True):
        if slot == "group":
            name = f"{node}->{head}"
            graph.add_edge(node, head, key=name, label=name, kind="group", slot=slot, weight=0.0)
    return graph


def to_graphml(circuit: Circuit) -> bytes:
    """GraphML; edge ids are the edges' names."""
    import networkx as nx

    buffer = io.BytesIO()
    nx.write_graphml(flat_graph(circuit), buffer)
    return buffer.getvalue()


def to_gexf(circuit: Circuit) -> bytes:
    """GEXF 1.2; edge ids are the edges' names."""
    import networkx as nx

    graph = flat_graph(circuit)
    graph.graph.clear()  # GEXF has no attributes of a graph
    for _, _, name, data in graph.edges(keys=True, data=True):
        data["id"] = name
    buffer = io.BytesIO()
    nx.write_gexf(graph, buffer)
    return buffer.getvalue()


def to_node_link(circuit: Circuit) -> str:
    """networkx's node-link JSON, edges under `edges`."""
    import networkx as nx

    return to_json(nx.node_link_data(flat_graph(circuit), edges="edges"), indent=1) + "\n"


def to_csv(circuit: Circuit) -> str:
    """One kept edge a row, in canonical order: names, score, weight, layers, roles, columns."""
    graph = flat_graph(circuit)
    columns = sorted(f"column.{escape_text(name)}" for name in circuit.columns)
    fields = ["edge", "source", "destination", "slot", "score", "weight"]
    ends = ["source_layer", "destination_layer", "source_role", "destination_role"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*fields, *ends, *columns])
    kept = [edge for edge in graph.edges(keys=True, data=True) if edge[3]["kind"] == "edge"]
    kept.sort(key=lambda edge: circuit.wiring.edge_index(edge[2]))
    for source, destination, name, data in kept:
        left, right = graph.nodes[source], graph.nodes[destination]
        row = [name, source, destination, data["slot"], data.get("score", ""), data["weight"]]
        row += [left["layer"], right["layer"], left["role"], right["role"]]
        writer.writerow(row + [data.get(column, "") for column in columns])
    return buffer.getvalue()


def to_dot(circuit: Circuit) -> str:
    """Graphviz DOT from the input (bottom) to the logits (top), one rank a layer's heads, one its
    MLP; red edges hurt the answer, grey ones tie groups.
    """
    graph = flat_graph(circuit)
    lines = ["digraph circuit {", "  rankdir=BT;", "  node [shape=box];"]
    ranks: dict[tuple[int, bool], list[str]] = {}
    for node, data in graph.nodes(data=True):
        ranks.setdefault((data["layer"], data["kind"] == "mlp"), []).append(node)
        fields = {**data, "label": f"{node}\n{data['role']}" if data["role"] else node}
        lines.append(f"  {_quoted(node)} [{_dot_fields(fields)}];")
    for rank in sorted(ranks):
        lines.append(f"  {{ rank=same; {'; '.join(map(_quoted, ranks[rank]))}; }}")
    largest = max((data["weight"] for *_, data in graph.edges(data=True)), default=0.0) or 1.0
    for source, destination, data in graph.edges(data=True):
        fields = {**data, "label": data["slot"], "id": data["label"]}
        fields["penwidth"] = round(0.5 + 4 * data["weight"] / largest, 3)
        fields["color"] = "red3" if data.get("score", 0.0) < 0 else "black"
        if data["kind"] == "group":
            fields |= {"label": "", "color": "grey70", "style": "dashed"}
        lines.append(f"  {_quoted(source)} -> {_quoted(destination)} [{_dot_fields(fields)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{_quoted(key)}={_quoted(value)}" for key, value in fields.items())


def _quoted(value: Any) -> str:
    r"""A DOT string. Only `\"` is an escape to DOT's parser, and a label reads `\\` and `\n`."""
    text = repr(value) if isinstance(value, float | np.floating) else str(value)
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'
