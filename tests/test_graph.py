"""Laws of wirings, edge scores and circuits."""

from __future__ import annotations

import json
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.base.choices import KeyValue
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune
from circuits.model.wiring import Wiring, node_kind, node_layer
from tests.circuit_strategies import circuits, kept_edges, wirings

LAW = settings(max_examples=40, deadline=None)

EDGE_COUNTS = {
    "GPT-2 small": (Wiring(12, 12, 12), 32_491),
    "GPT-2 medium": (Wiring(24, 16, 16), 231_877),
    "GPT-2 large": (Wiring(36, 20, 20), 810_703),
    "TinyLlama, a query head": (Wiring(22, 32, 4, KeyValue.PER_QUERY_HEAD), 742_996),
    "TinyLlama, its own wiring": (Wiring(22, 32, 4), 314_876),
}


def scores_of(wiring: Wiring, seed: int = 0) -> EdgeScores:
    per_pair = np.random.default_rng(seed).standard_normal((2, wiring.n_edges))
    return EdgeScores(wiring, per_pair.mean(0), per_pair)


def writes_at(node: str, wiring: Wiring) -> tuple[int, int]:
    """When a node writes (and, for destinations, reads): layer, then heads before MLP."""
    if node in ("input", "logits"):
        return (-1, 0) if node == "input" else (wiring.n_layers, 0)
    layer = node_layer(node)
    assert layer is not None
    return layer, int(node_kind(node) == "mlp")


@pytest.mark.parametrize("model", EDGE_COUNTS)
def test_edge_counts_are_those_of_the_literature(model: str) -> None:
    wiring, count = EDGE_COUNTS[model]
    assert wiring.n_edges == count


@LAW
@given(wiring=wirings())
def test_an_edge_goes_from_every_source_to_every_later_reader_and_no_other(wiring: Wiring) -> None:
    expected = {
        f"{source}->{name}"
        for source in wiring.src_names
        for name, node in zip(wiring.dst_names, wiring.dst_nodes, strict=True)
        if writes_at(source, wiring) < writes_at(node, wiring)
    }
    names = [wiring.edge_name(edge) for edge in range(wiring.n_edges)]
    assert len(names) == len(set(names))
    assert set(names) == expected
    assert int(wiring.mask.sum()) == wiring.n_edges


@LAW
@given(wiring=wirings())
def test_names_round_trip(wiring: Wiring) -> None:
    for edge in range(wiring.n_edges):
        assert wiring.edge_index(wiring.edge_name(edge)) == edge


@pytest.mark.parametrize(
    "name",
    [
        "",
        "->",
        "input",
        "input->",
        "m0->m0",
        "m1->a0.h0<q>",
        "input->a0.h0",
        "input->a0.h0<x>",
        "input->a9.h0<q>",
        "logits->m0",
        "input->input",
        "input->m0<q>",
        "input->a0.h0<k>",
    ],
)
def test_a_name_without_an_edge_is_refused(name: str) -> None:
    with pytest.raises(OptionError):
        Wiring(2, 4, 2).edge_index(name)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 3, 2), (-1, 1, 1)])
def test_an_impossible_geometry_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(OptionError):
        Wiring(*numbers)


@LAW
@given(wiring=wirings())
def test_matrices_round_trip(wiring: Wiring) -> None:
    values = np.arange(1, wiring.n_edges + 1)
    matrix = wiring.to_matrix(values)
    np.testing.assert_array_equal(wiring.from_matrix(matrix), values)
    np.testing.assert_array_equal(matrix != 0, wiring.mask)


@LAW
@given(wiring=wirings(2))
def test_grouped_scores_are_the_sums_over_the_heads_of_a_group(wiring: Wiring) -> None:
    scores = scores_of(wiring.with_kv(KeyValue.PER_QUERY_HEAD))
    grouped = scores.grouped()
    assert grouped.wiring == wiring.with_kv(KeyValue.GROUPED)
    assert scores.per_pair is not None
    assert grouped.per_pair is not None
    for edge in range(grouped.wiring.n_edges):
        source, _, destination = grouped.wiring.edge_name(edge).partition("->")
        node, _, slot = destination.partition("<")
        heads = grouped.wiring.heads_of(node)
        parts = [f"{source}->{head}" + (f"<{slot}" if slot else "") for head in heads]
        assert grouped.values[edge] == pytest.approx(sum(scores[part] for part in parts))
        places = [scores.wiring.edge_index(part) for part in parts]
        np.testing.assert_allclose(
            grouped.per_pair[:, edge], scores.per_pair[:, places].sum(1), atol=1e-12
        )


def test_scores_of_another_size_are_refused() -> None:
    with pytest.raises(OptionError, match="do not fit"):
        EdgeScores(Wiring(1, 1, 1), np.zeros(3))


def test_a_circuit_of_another_size_is_refused() -> None:
    wiring = Wiring(1, 1, 1)
    with pytest.raises(OptionError):
        Circuit(wiring, np.zeros(3, dtype=bool))
    with pytest.raises(OptionError):
        Circuit.full(wiring, EdgeScores(Wiring(2, 1, 1), np.zeros(Wiring(2, 1, 1).n_edges)))
    with pytest.raises(OptionError):
        Circuit(wiring, np.zeros(wiring.n_edges, dtype=bool), columns={"x": np.zeros(2)})


@LAW
@given(data=st.data(), wiring=wirings(2))
def test_circuits_are_sets_of_edges(data: st.DataObject, wiring: Wiring) -> None:
    a, b, c = (Circuit(wiring, data.draw(kept_edges(wiring))) for _ in range(3))
    left, right = set(a.edge_names()), set(b.edge_names())
    assert set((a & b).edge_names()) == left & right
    assert set((a | b).edge_names()) == left | right
    assert set((a - b).edge_names()) == left - right
    assert (a <= b) == (left <= right)
    assert ~(a | b) == ~a & ~b
    assert a & (b | c) == (a & b) | (a & c)
    assert a - b == a & ~b
    assert ~~a == a
    assert a | ~a == Circuit.full(wiring)
    assert a & ~a == Circuit.empty(wiring)
    assert a.n_edges + (~a).n_edges == wiring.n_edges


def test_what_was_measured_on_a_circuit_is_said_of_no_other_edges() -> None:
    wiring = Wiring(2, 2, 2)
    measured = {"model": "m", "faithfulness": 0.93, "faithfulness_on": "other subjects"}
    circuit = replace(
        Circuit.full(wiring),
        provenance=measured,
        evidence={"evaluation": {"faithfulness": Interval(0.93, 0.9, 0.95).as_dict()}},
    )
    assert "0.930" in str(circuit.summary())
    half = Circuit(wiring, np.arange(wiring.n_edges) % 2 == 0)
    derived = [circuit.without("m0"), circuit.among("m0"), circuit & half, circuit | half]
    derived += [circuit - half, ~circuit, circuit.keeping(half.kept), prune(circuit)]
    told_apart = circuit.everywhere(["subject", "last", "others"])
    derived += [told_apart, told_apart.blind()]
    for each in derived:
        assert each.provenance == {"model": "m"}
        assert each.evidence == {}
        assert "faithfulness" not in str(each.summary())


def test_circuits_of_two_geometries_do_not_combine() -> None:
    one, other = Circuit.full(Wiring(1, 2, 2)), Circuit.full(Wiring(1, 2, 1))
    with pytest.raises(OptionError, match="cannot be combined"):
        one & other
    assert one != other


@LAW
@given(circuit=circuits())
def test_no_operation_changes_its_arguments(circuit: Circuit) -> None:
    kept = circuit.kept.copy()
    circuit.to_networkx()
    _ = (~circuit, circuit | ~circuit, circuit - circuit, circuit & ~circuit)
    np.testing.assert_array_equal(circuit.kept, kept)


@LAW
@given(circuit=circuits(3))
def test_the_networkx_graph_holds_the_kept_edges_and_flows_upwards(circuit: Circuit) -> None:
    graph = circuit.to_networkx()
    assert isinstance(graph, nx.DiGraph)
    assert nx.is_directed_acyclic_graph(graph)
    assert list(graph.nodes) == circuit.nodes()
    counted = [edge for edge in graph.edges(data="slot") if edge[2] != "group"]
    names = [f"{u}->{v}" + (f"<{slot}>" if slot else "") for u, v, slot in counted]
    assert sorted(names) == sorted(circuit.edge_names())
    for source, destination, slot in graph.edges(data="slot"):
        low, high = graph.nodes[source]["layer"], graph.nodes[destination]["layer"]
        assert low == high if slot == "group" else low <= high
        into_mlp = graph.nodes[destination]["kind"] == "mlp"
        assert low < high or into_mlp or slot == "group"


@LAW
@given(circuit=circuits())
def test_the_networkx_graph_carries_scores_columns_and_roles(circuit: Circuit) -> None:
    graph = circuit.to_networkx()
    for node, role in graph.nodes(data="role"):
        assert role == circuit.roles.get(node, "")
    leaving = dict.fromkeys(graph.nodes, 0.0)
    for source, destination, data in graph.edges(data=True):
        if data["slot"] == "group":
            continue
        slot = f"<{data['slot']}>" if data["slot"] else ""
        edge = circuit.wiring.edge_index(f"{source}->{destination}{slot}")
        if circuit.scores is not None:
            assert data["score"] == circuit.scores.values[edge]
            leaving[source] += data["score"]
        for name in circuit.columns.keys() - {"score", "slot"}:
            assert data[name] == circuit.columns[name][edge]
    for node, score in graph.nodes(data="score"):
        assert score == pytest.approx(leaving[node], rel=1e-6)


def test_columns_and_provenance_may_have_any_name() -> None:
    wiring = Wiring(1, 1, 1)
    names = ("key", "slot", "score", "u_for_edge", "v_for_edge", "attr")
    columns = {name: np.zeros(wiring.n_edges) for name in names}
    provenance = {"incoming_graph_data": "x", "multigraph_input": 1, "self": 2, "": 3}
    graph = Circuit(
        wiring, np.ones(wiring.n_edges, dtype=bool), None, columns, {}, provenance
    ).to_networkx()
    assert graph.number_of_edges() == wiring.n_edges
    assert graph.graph == provenance


def test_nodes_come_in_residual_stream_order() -> None:
    nodes = Circuit.full(Wiring(11, 12, 6)).nodes()
    assert nodes[0] == "input"
    assert nodes[-1] == "logits"
    assert nodes.index("a2.h0") < nodes.index("a2.h10") < nodes.index("a2.kv0")
    assert nodes.index("a2.kv5") < nodes.index("m2") < nodes.index("a3.h0") < nodes.index("a10.h0")


@given(circuits(), st.data())
def test_without_a_node_or_an_edge_nothing_else_is_gone(circuit: Circuit, data: st.DataObject):
    wiring = circuit.wiring
    ends = [
        (wiring.src_names[src], wiring.dst_nodes[dst])
        for src, dst in zip(wiring.edge_src, wiring.edge_dst, strict=True)
    ]
    node = data.draw(st.sampled_from(sorted({name for pair in ends for name in pair})))
    touched = np.array([node in pair for pair in ends])
    assert (circuit.without(node).kept == (circuit.kept & ~touched)).all()
    assert circuit.without() == circuit
    edge = data.draw(st.integers(0, wiring.n_edges - 1))
    less = circuit.without(node, wiring.edge_name(edge)).kept
    assert (less == (circuit.kept & ~touched & (np.arange(wiring.n_edges) != edge))).all()
    inside = np.array([{*pair} <= {node, "input", "logits"} for pair in ends])
    assert (circuit.among(node).kept == (circuit.kept & inside)).all()
    assert circuit.without(node).scores is circuit.scores


@pytest.mark.parametrize("call", ["without", "among"])
def test_a_part_that_the_model_has_not_is_refused(call: str):
    circuit = Circuit.full(Wiring(2, 4, 2))
    with pytest.raises(OptionError, match=r"no node 'a7\.h0' in a model of 2 layers"):
        getattr(circuit, call)("a7.h0")
    with pytest.raises(OptionError, match=r"no edge 'input->a7\.h0'"):
        circuit.without("input->a7.h0")


def test_results_are_frozen_and_provenance_is_copied() -> None:
    origin = {"model": "x"}
    scores = EdgeScores(Wiring(1, 1, 1), np.zeros(Wiring(1, 1, 1).n_edges), provenance=origin)
    origin["model"] = "y"
    assert scores.provenance == {"model": "x"}
    with pytest.raises(AttributeError):
        scores.values = np.zeros(1)  # type: ignore[misc]
    assert json.loads(json.dumps(KeyValue.GROUPED)) == "grouped"


def test_nothing_that_a_caller_does_changes_a_circuit_or_its_scores():
    wiring = Wiring(2, 2, 2)
    kept, values = np.zeros(wiring.n_edges, dtype=bool), np.zeros(wiring.n_edges)
    circuit = Circuit(wiring, kept, EdgeScores(wiring, values), {"low": values})
    kept[:], values[:] = True, 1.0
    assert circuit.n_edges == 0
    assert circuit.scores is not None
    for array in (circuit.kept, circuit.scores.values, circuit.columns["low"]):
        assert not array.any()
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 1
