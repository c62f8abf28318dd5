"""Laws of attribution graphs: what is written is of the schema and comes back, others' stay so."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import knowledge_circuits as kc
from circuits.base.arrays import ContentError
from circuits.base.choices import KeyValue
from circuits.base.errors import CircuitFileError, FileFormatError, OptionError
from circuits.files.attribution import AttributionGraph, load_graph
from circuits.files.exchange import export_circuit
from circuits.files.neuronpedia import check_graph, graph_of, is_graph, load_neuronpedia
from circuits.files.reading import read_circuit
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring
from experiments.cli.main import main
from locate.looks.says import says
from tests.circuit_strategies import assert_identical, circuits

LAW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCHEMA = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": {"type": "string"},
                "scan": {"type": "string"},
                "prompt": {"type": "string"},
                "prompt_tokens": {"type": "array", "items": {"type": "string"}},
                "info": {"type": "object", "properties": {"create_time_ms": {"type": "number"}}},
                "generation_settings": {"type": "object"},
            },
        },
        "qParams": {
            "type": "object",
            "properties": {
                "pinnedIds": {"type": "array", "items": {"type": "string"}},
                "supernodes": {"type": "array"},
                "linkType": {"type": "string"},
                "clickedId": {"type": "string"},
                "sg_pos": {"type": "string"},
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    *("node_id", "feature", "layer", "ctx_idx"),
                    *("feature_type", "jsNodeId", "clerp"),
                ],
                "properties": {
                    "node_id": {"type": "string"},
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": {"type": "integer"},
                    "feature_type": {"type": "string"},
                    "jsNodeId": {"type": "string"},
                    "clerp": {"type": "string"},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {
                    "source": {"type": "string"},
                    "target": {"type": "string"},
                    "weight": {"type": "number"},
                },
            },
        },
    },
}
"""What Neuronpedia's published schema (version 1.0.0) asks of a file, in our words."""


def on_kept(circuit: Circuit) -> Circuit:
    """The circuit as a file of its kept edges can know it: zeros elsewhere."""
    kept, scores = circuit.kept, circuit.scores
    if scores is not None:
        values = np.where(kept, scores.values.astype(np.float32), np.float32(0))
        scores = EdgeScores(scores.wiring, values, provenance=scores.provenance)
    columns = {n: np.where(kept, c, 0).astype(c.dtype) for n, c in circuit.columns.items()}
    return replace(circuit, scores=scores, columns=columns)


def foreign() -> dict[str, Any]:
    """A small graph of features, as circuit-tracer writes it."""

    def node(name: str, layer: str, kind: str, at: int, label: str = "") -> dict[str, Any]:
        return {
            **{"node_id": name, "feature": 7, "layer": layer, "ctx_idx": at, "clerp": label},
            **{"feature_type": kind, "jsNodeId": name, "influence": None, "activation": 1.5},
        }

    feature = "cross layer transcoder"
    links = [("E_1_0", "0_5_1", 3.0), ("E_2_1", "0_5_1", -1.0), ("0_5_1", "2_9_1", 2.0)]
    links += [("E_2_1", "2_9_1", 2.0), ("2_9_1", "4_8_1", -6.0), ("1_-1_1", "4_8_1", 2.0)]
    return {
        "metadata": {"slug": "x", "scan": "gemma-2-2b", "prompt_tokens": ["The", " sea"],
                     "prompt": "The sea"},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": ""},
        "nodes": [
            node("E_1_0", "E", "embedding", 0), node("E_2_1", "E", "embedding", 1),
            node("0_5_1", "0", feature, 1), node("2_9_1", "2", feature, 1, "say blue"),
            node("1_-1_1", "1", "mlp reconstruction error", 1),
            node("4_8_1", "4", "logit", 1, 'Output " is" (p=0.4)'),
        ],
        "links": [{"source": a, "target": b, "weight": w} for a, b, w in links],
    }  # fmt: skip


@LAW
@given(circuit=circuits())
def test_what_is_written_is_of_the_schema_and_gives_the_kept_edges_back(
    circuit: Circuit, tmp_path: Path
):
    import jsonschema

    path = tmp_path / "graph.json"
    export_circuit(circuit, path, "neuronpedia")
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(SCHEMA).validate(document)
    check_graph(document)
    assert is_graph(path)
    assert_identical(read_circuit(path), on_kept(circuit))


@LAW
@given(circuit=circuits())
def test_weights_sum_to_the_scores_and_no_two_links_join_the_same_nodes(circuit: Circuit):
    document = graph_of(circuit)
    links = document["links"]
    pairs = [(link["source"], link["target"]) for link in links]
    assert len(set(pairs)) == len(pairs)
    values = np.ones(circuit.wiring.n_edges) if circuit.scores is None else circuit.scores.values
    expected = values[circuit.kept].astype(float)
    total = sum(link["weight"] for link in links)
    assert total == pytest.approx(expected.sum(), abs=1e-6 * max(1e-30, np.abs(expected).sum()))
    # The viewer tells nodes apart by layer, feature and position, and reads a logit's "(p=".
    known = [(node["layer"], node["feature"], node["ctx_idx"]) for node in document["nodes"]]
    assert len(set(known)) == len(known)
    assert all("(p=" in n["clerp"] for n in document["nodes"] if n["feature_type"] == "logit")


def test_a_shared_value_goes_in_equal_parts_to_the_heads_of_its_group_in_the_circuit():
    wiring = Wiring(1, 4, 2, KeyValue.GROUPED)
    kept = np.zeros(wiring.n_edges, dtype=bool)
    names = ("input->a0.kv0<v>", "a0.h0->logits", "a0.h1->logits", "input->a0.kv1<v>")
    kept[[wiring.edge_index(name) for name in names]] = True
    values = np.zeros(wiring.n_edges)
    values[wiring.edge_index(names[0])], values[wiring.edge_index(names[3])] = 3.0, 4.0
    document = graph_of(Circuit(wiring, kept, EdgeScores(wiring, values)))
    into = {
        link["target"]: link["weight"] for link in document["links"] if link["source"][0] == "E"
    }
    assert into == {"0_0_0": 1.5, "0_1_0": 1.5, "0_2_0": 2.0, "0_3_0": 2.0}


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: d.pop("qParams"), "lacks 'qParams'"),
        (lambda d: d["metadata"].pop("slug"), "lacks the text 'slug'"),
        (lambda d: d["nodes"][0].update(ctx_idx=2), "ctx_idx"),
        (lambda d: d["nodes"][0].update(feature="x"), "feature"),
        (lambda d: d["nodes"][1].update(node_id="E_1_0"), "two nodes"),
        (lambda d: d["links"][0].update(source="gone"), "no node"),
        (lambda d: d["links"][0].update(weight=None), "weight"),
        (lambda d: d["links"][0].update(weight=float("inf")), "weight"),
        (lambda d: d["links"][0].update(weight=10**400), "weight"),
    ],
)
def test_a_file_that_is_not_of_the_schema_is_refused_with_its_place(break_it, words, tmp_path):
    document = foreign()
    break_it(document)
    with pytest.raises(ContentError, match=words):
        check_graph(document)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=words) as caught:
        load_graph(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "own",
    [
        {}, {"geometry": {}}, {"scored": 3},
        {"edges": {"a9.h0->logits": [1.0]}}, {"edges": {"input->logits": [1.0, 2.0]}},
        {"edges": {"input->logits": "x"}}, {"roles": 3}, {"columns": {"x": "object"}},
    ],
)  # fmt: skip
def test_a_part_of_ours_that_makes_no_circuit_is_refused(own: Any, tmp_path: Path):
    document = graph_of(
        Circuit.full(
            Wiring(1, 2, 2), EdgeScores(Wiring(1, 2, 2), np.ones(27)[: Wiring(1, 2, 2).n_edges])
        )
    )
    document["kc"] = (
        {**document["kc"], **own}
        if own and isinstance(own, dict) and own != {"geometry": {}}
        else own
    )
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CircuitFileError):
        load_neuronpedia(path)


def test_another_tools_graph_is_no_circuit_and_is_kept_as_what_it_is(tmp_path: Path, capsys):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(foreign()))
    with pytest.raises(CircuitFileError, match="no heads and MLPs"):
        read_circuit(path)
    graph = kc.open(path)
    assert isinstance(graph, AttributionGraph)
    into = {}
    for row in graph.rows():
        into[row["target"]] = into.get(row["target"], 0) + row["share"]
    assert all(total == pytest.approx(1) for total in into.values())
    plain = graph.to_networkx()
    assert plain.edges["2_9_1", "4_8_1"]["weight"] == -6
    assert plain.nodes["2_9_1"]["clerp"] == "say blue"
    assert main(["show", str(path)]) == 0
    assert "which heads carry a link is not known" in capsys.readouterr().out
    assert main(["evaluate", str(path), "--model", "facts-gpt2", "--relation", "demonym"]) == 2
    assert "no heads and MLPs" in capsys.readouterr().err
    assert main(["export", str(path), "--to", "html", "--cdn"]) == 0


def test_a_graph_begins_with_its_size_and_its_strongest_path():
    said = says(AttributionGraph.of(foreign()))
    assert said.startswith("'The sea' in gemma-2-2b has 6 nodes and 6 links; the strongest path, ")
    assert said.endswith("has 37.5 % of the input of its end.")
    alone = foreign()
    alone["links"] = []
    assert says(AttributionGraph.of(alone)).endswith("and 0 links; no path leads to an answer.")


def test_the_strongest_paths_are_those_of_a_search_through_all():
    graph = AttributionGraph.of(foreign())
    plain = graph.to_networkx()
    roots = [n for n in plain if not plain.in_degree(n)]
    every = []
    import networkx as nx

    for root in roots:
        for nodes in nx.all_simple_paths(plain, root, "4_8_1"):
            links = [plain.edges[pair] for pair in pairwise(nodes)]
            share = float(np.prod([link["share"] for link in links]))
            sign = int(np.prod([np.sign(link["weight"]) for link in links]))
            every.append((share, tuple(nodes), sign))
    every.sort(reverse=True)
    found = graph.paths(50)
    assert [each.share for each in found] == pytest.approx([share for share, _, _ in every])
    assert {(p.nodes, p.sign) for p in found} == {(nodes, sign) for _, nodes, sign in every}
    assert graph.paths(2) == found[:2]
    assert sum(path.share for path in found) == pytest.approx(1)  # every input is accounted for
    assert graph.paths(9, to="0_5_1")[0].nodes == ("E_1_0", "0_5_1")
    with pytest.raises(OptionError, match="no node"):
        graph.paths(to="gone")
    looped = foreign()
    looped["links"].append({"source": "2_9_1", "target": "0_5_1", "weight": 1.0})
    with pytest.raises(OptionError, match="cycle"):
        AttributionGraph.of(looped).paths()
