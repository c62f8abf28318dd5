"""Laws of selection, pruning and random baselines, against slow and plain routes."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.base.choices import KeyValue, Ranking, Selection
from circuits.base.errors import NumericalError, OptionError
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.graph.select import greedy, prune, random_circuit, select, threshold, top_n
from circuits.model.wiring import Wiring
from tests.circuit_strategies import kept_edges, wirings

LAW = settings(max_examples=60, deadline=None)
RANKINGS = st.sampled_from(Ranking)


@st.composite
def scored(draw: st.DrawFn) -> EdgeScores:
    """Scores with many ties."""
    wiring = draw(wirings(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return EdgeScores(wiring, rng.integers(-9, 10, wiring.n_edges).astype(np.float32))


def ranked(scores: EdgeScores, by: Ranking) -> list[int]:
    """Edges, best first; equal ones in canonical order."""
    keys = np.abs(scores.values) if by is Ranking.ABSOLUTE else scores.values
    return sorted(range(scores.wiring.n_edges), key=lambda edge: (-keys[edge], edge))


def owners(wiring: Wiring, dst: int) -> list[str]:
    """The nodes whose output depends on a destination."""
    return wiring.heads_of(wiring.dst_nodes[dst])


def paths_from_input_to_logits(circuit: Circuit) -> set[str]:
    """Edges on a path, found by networkx on a graph of sources and destinations."""
    wiring, graph = circuit.wiring, nx.DiGraph()
    graph.add_nodes_from([("out", "input"), ("in", "logits")])
    for dst, name in enumerate(wiring.dst_names):
        for node in owners(wiring, dst) if name != "logits" else []:
            graph.add_edge(("in", name), ("out", node))
    for edge in circuit.edges():
        source, destination = circuit.wiring.edge_name(edge).split("->")
        graph.add_edge(("out", source), ("in", destination))
    reached = {("out", "input"), *nx.descendants(graph, ("out", "input"))}
    needed = {("in", "logits"), *nx.ancestors(graph, ("in", "logits"))}
    return {
        name
        for name in circuit.edge_names()
        if ("out", name.split("->")[0]) in reached and ("in", name.split("->")[1]) in needed
    }


@LAW
@given(scores=scored(), by=RANKINGS, data=st.data())
def test_top_n_keeps_the_first_n_of_the_ranking(
    scores: EdgeScores, by: Ranking, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, scores.wiring.n_edges))
    assert sorted(top_n(scores, n, by).edges()) == sorted(ranked(scores, by)[:n])


@LAW
@given(scores=scored(), by=RANKINGS, t=st.integers(0, 10))
def test_a_threshold_keeps_what_reaches_it(scores: EdgeScores, by: Ranking, t: int) -> None:
    keys = np.abs(scores.values) if by is Ranking.ABSOLUTE else scores.values
    kept = set(threshold(scores, t, by).edges())
    assert kept == {edge for edge in range(scores.wiring.n_edges) if keys[edge] >= t}


@LAW
@given(scores=scored(), by=RANKINGS, data=st.data())
def test_greedy_takes_the_best_edge_into_what_is_connected(
    scores: EdgeScores, by: Ranking, data: st.DataObject
) -> None:
    wiring = scores.wiring
    n = data.draw(st.integers(1, wiring.n_edges))
    order, connected, kept = ranked(scores, by), {"logits"}, []
    for _ in range(n):
        best = next(
            edge
            for edge in order
            if edge not in kept and connected & set(owners(wiring, int(wiring.edge_dst[edge])))
        )
        kept.append(best)
        connected.add(wiring.src_names[wiring.edge_src[best]])
    assert sorted(greedy(scores, n, by).edges()) == sorted(kept)


@LAW
@given(data=st.data(), wiring=wirings(4))
def test_pruning_keeps_exactly_the_paths_from_input_to_logits(
    data: st.DataObject, wiring: Wiring
) -> None:
    circuit = Circuit(wiring, data.draw(kept_edges(wiring)))
    pruned = prune(circuit)
    assert set(pruned.edge_names()) == paths_from_input_to_logits(circuit)
    assert prune(pruned) == pruned
    assert pruned <= circuit


@LAW
@given(data=st.data(), wiring=wirings(3))
def test_pruning_a_larger_circuit_keeps_no_less(data: st.DataObject, wiring: Wiring) -> None:
    small = Circuit(wiring, data.draw(kept_edges(wiring)))
    large = small | Circuit(wiring, data.draw(kept_edges(wiring)))
    assert prune(small) <= prune(large)


def test_the_full_and_the_empty_circuit_are_pruned_already() -> None:
    wiring = Wiring(3, 4, 2)
    for circuit in (Circuit.full(wiring), Circuit.empty(wiring)):
        assert prune(circuit) == circuit


def test_a_head_whose_keys_alone_are_read_stays() -> None:
    wiring = Wiring(2, 4, 2)
    path = ["input->a0.h1<q>", "a0.h1->a1.kv1<k>", "a1.h2->logits"]
    dangling = ["input->m0", "a0.h3->logits", "input->a1.kv0<v>"]
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[[wiring.edge_index(name) for name in path + dangling]] = True
    assert set(prune(Circuit(wiring, kept)).edge_names()) == set(path)


@LAW
@given(data=st.data(), wiring=wirings(3), seed=st.integers(0, 2**32))
def test_a_random_circuit_has_exactly_n_edges_after_pruning(
    data: st.DataObject, wiring: Wiring, seed: int
) -> None:
    n = data.draw(st.integers(1, wiring.n_edges))
    circuit = random_circuit(wiring, n, np.random.default_rng(seed))
    assert circuit.n_edges == n
    assert prune(circuit) == circuit


def test_random_circuits_follow_their_seed_and_differ_between_seeds() -> None:
    wiring = Wiring(4, 4, 2)
    one, same, other = (random_circuit(wiring, 60, np.random.default_rng(s)) for s in (1, 1, 2))
    assert one == same
    assert one != other


def test_any_edge_can_be_in_a_random_circuit() -> None:
    wiring, rng = Wiring(3, 2, 1), np.random.default_rng(0)
    circuits = [random_circuit(wiring, n, rng) for n in (2, 5, 20, 40) for _ in range(60)]
    assert np.logical_or.reduce([circuit.kept for circuit in circuits]).all()
    assert not np.logical_and.reduce([circuit.kept for circuit in circuits]).any()


@pytest.mark.parametrize("n", [0, -1, 10**9])
def test_an_absurd_number_of_edges_is_refused_in_words(n: int) -> None:
    wiring = Wiring(1, 2, 2)
    scores = EdgeScores(wiring, np.zeros(wiring.n_edges))
    for choose in (top_n, greedy):
        with pytest.raises(OptionError, match="between 1 and"):
            choose(scores, n)
    with pytest.raises(OptionError, match="between 1 and"):
        random_circuit(wiring, n, np.random.default_rng(0))


@pytest.mark.parametrize("t", [float("nan"), float("inf"), -1.0])
def test_an_absurd_threshold_is_refused(t: float) -> None:
    wiring = Wiring(1, 2, 2)
    with pytest.raises(OptionError, match="threshold"):
        threshold(EdgeScores(wiring, np.zeros(wiring.n_edges)), t)


def test_a_negative_threshold_on_signed_scores_is_no_mistake() -> None:
    wiring = Wiring(1, 1, 1)
    scores = EdgeScores(wiring, np.arange(wiring.n_edges) - 3.0)
    assert threshold(scores, -1, Ranking.SIGNED).n_edges == wiring.n_edges - 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_never_ranked(value: float) -> None:
    wiring = Wiring(1, 2, 2)
    values = np.zeros(wiring.n_edges)
    values[wiring.edge_index("input->m0")] = value
    scores = EdgeScores(wiring, values)
    for choose in (
        lambda: top_n(scores, 2),
        lambda: greedy(scores, 2),
        lambda: threshold(scores, 0),
    ):
        with pytest.raises(NumericalError, match="input->m0"):
            choose()


@pytest.mark.parametrize("selection", Selection)
def test_select_prunes_and_records_both_sizes(selection: Selection) -> None:
    wiring = Wiring(3, 4, 2)
    values = np.random.default_rng(0).standard_normal(wiring.n_edges)
    scores = EdgeScores(wiring, values, provenance={"model": "x"})
    plain = {
        Selection.TOP: lambda: top_n(scores, 30),
        Selection.GREEDY: lambda: greedy(scores, 30),
        Selection.THRESHOLD: lambda: threshold(scores, 1.5),
    }[selection]()
    circuit = select(scores, selection, n=30, t=1.5)
    assert circuit == prune(plain)
    record = circuit.provenance["selection"]
    assert circuit.provenance["model"] == "x"
    assert (record["edges_selected"], record["edges_after_pruning"]) == (
        plain.n_edges,
        circuit.n_edges,
    )
    with pytest.raises(OptionError, match="needs"):
        select(scores, selection)


def test_greedy_takes_as_many_as_asked_of_three_hundred_thousand_edges() -> None:
    wiring = Wiring(22, 32, 4, KeyValue.GROUPED)
    scores = EdgeScores(wiring, np.random.default_rng(0).standard_normal(wiring.n_edges))
    assert greedy(scores, 100_000).n_edges == 100_000
