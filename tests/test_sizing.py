"""How many edges a circuit gets, and what too few facts do not say."""

from __future__ import annotations

import numpy as np
import pytest

from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import evaluate, restored, run_circuits
from circuits.graph.measuring import BaseRuns, MeanMetric
from circuits.model.model import Model
from locate.discover import discover, find
from locate.edges.eap import attribute
from locate.edges.locators import Locator
from locate.examples import Examples
from locate.search import Search
from locate.sizing import LARGEST, size_line, smallest
from tests.tiny import equal_length_pairs


def faithful(model: Model, pairs, circuit: Circuit) -> float:
    runs = run_circuits(model, pairs, [circuit])
    return float(restored(runs.circuits[0].metric, runs.model.metric, runs.empty.metric))


@pytest.fixture
def scores(model: Model, pairs):
    return attribute(model, pairs, steps=2, keep_pairs=True)


@pytest.mark.parametrize("goal", [0.3, 0.7])
def test_the_circuit_reaches_its_goal_and_most_smaller_ones_do_not(
    model: Model, pairs, scores, goal: float
):
    search = Search(faithfulness=goal)
    found = smallest(model, pairs, scores, search)
    about = found.provenance["selection"]
    assert about["reached"] == pytest.approx(faithful(model, pairs, found), rel=1e-4)
    assert about["reached"] >= goal
    assert np.array_equal(found.kept, search.of_size(about["n"]).selected(scores).kept)
    sizes = range(1, about["n"], max(1, about["n"] // 6))
    smaller = [faithful(model, pairs, search.of_size(size).selected(scores)) for size in sizes]
    assert sum(value >= goal for value in smaller) <= len(smaller) / 2


def test_where_no_size_is_faithful_enough_the_best_one_is_kept(model: Model, pairs, scores):
    reversed_scores = type(scores)(scores.wiring, 1 / (1e-3 + np.abs(scores.values)))
    found = smallest(model, pairs, reversed_scores, Search(faithfulness=1.0))
    about = found.provenance["selection"]
    if about["reached"] < 1:
        assert "no size up to" in str(size_line(found))
    assert found.n_edges <= LARGEST * scores.wiring.n_edges


def test_a_mean_measured_one_by_one_is_the_mean_over_pairs_measured_together(
    model: Model, pairs, scores
):
    circuit = Search(edges=30).selected(scores)
    runs = run_circuits(model, pairs, [circuit])
    one = MeanMetric(BaseRuns(model, pairs, scores.wiring, "logit-diff", "patch", 2))
    assert one.of(circuit.matrix()) == pytest.approx(runs.circuits[0].metric.mean(), rel=1e-4)
    assert one.whole() == pytest.approx(runs.model.metric.mean(), rel=1e-4)


def test_an_evaluation_on_kept_runs_is_the_same_and_runs_no_circuit_again(
    model: Model, pairs, scores, monkeypatch
):
    from circuits.graph.running import CircuitRunner

    circuit, runs = Search(edges=30).selected(scores), []
    fresh = evaluate(model, pairs, circuit)
    base = BaseRuns(model, pairs, scores.wiring, "logit-diff", "patch", 16)
    MeanMetric(base).of(circuit.matrix())
    plain = CircuitRunner.run
    monkeypatch.setattr(CircuitRunner, "run", lambda *a: runs.append(a[1]) or plain(*a))
    assert evaluate(model, pairs, circuit, base=base) == fresh
    assert not any(np.array_equal(kept, circuit.matrix()) for kept in runs)
    assert runs  # the empty circuit and all edges outside had not been run


def test_a_size_is_said_once(model: Model):
    for sizes in ({"edges": 3, "share": 0.1}, {"faithfulness": 0.5, "threshold": 0.1}):
        with pytest.raises(OptionError, match="exclude each other"):
            Search(**sizes)
    with pytest.raises(OptionError, match="selects edges itself"):
        Search(method=Locator.of("acdc"), faithfulness=0.5)
    wiring = model.wiring()
    assert Search(share=0.25).n_edges(wiring) == round(0.25 * wiring.n_edges)
    assert Search(edges=9).measured() == Search(edges=9)
    assert Search().measured().faithfulness == 0.9


def test_a_faithful_circuit_is_no_selection_without_a_model(scores):
    with pytest.raises(OptionError, match="`faithfulness` sets the size"):
        Search(faithfulness=0.5).selected(scores)


def test_two_mirrored_pairs_give_no_intervals_and_no_inclusion(model: Model):
    pairs = tuple(equal_length_pairs(model)[:2])
    found = discover(model, Examples("x", pairs), Search(n_random=1, resamples=5))
    assert not found.stability
    assert "inclusion" not in found.circuit.columns
    assert np.isnan(found.evaluation.faithfulness.low)
    assert any("2 different facts" in note for note in found.notes)


def test_a_curve_is_measured_on_the_pairs_that_did_not_find_the_circuit(model: Model):
    pairs = tuple(equal_length_pairs(model))
    examples = Examples("x", pairs[:2], pairs[2:4])
    found = discover(model, examples, Search(n_random=1, curve=True, edges=20))
    assert found.curve_pairs == "other pairs"  # some ask about the same subjects
    circuit = Search(edges=found.curve.sizes[5]).selected(found.scores)
    sides = [faithful(model, side, found_top(found, 5)) for side in (pairs[2:4], pairs[:2])]
    assert circuit.n_edges <= found.curve.sizes[5]
    assert found.curve.faithfulness[5].value == pytest.approx(sides[0], rel=1e-3)
    assert found.curve.faithfulness[5].value != pytest.approx(sides[1], rel=1e-3)


def found_top(found, place: int) -> Circuit:
    from circuits.graph.select import top_n

    return top_n(found.scores, found.curve.sizes[place])


def test_find_repeats_the_selection_at_the_size_that_it_chose(model: Model):
    pairs = tuple(equal_length_pairs(model))
    found = find(model, Examples("x", pairs), Search(faithfulness=0.5, resamples=0))
    n = found.provenance["selection"]["n"]
    again = find(model, Examples("x", pairs), Search(edges=n, resamples=0))
    assert np.array_equal(found.kept, again.kept)
