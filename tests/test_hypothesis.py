"""Tests of the circuit hypothesis: their level where the null holds, their power, their numbers."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
from scipy import stats

from circuits.base.choices import KeyValue
from circuits.base.errors import OptionError
from circuits.facts.pairs import TokenPair
from circuits.graph import hypothesis
from circuits.graph.chance import inflated, same_shape
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.hypothesis import (
    LEVEL,
    CircuitTests,
    against,
    circuit_tests,
    equivalence,
    independence,
    minimality,
    published_independence,
)
from circuits.graph.select import prune, random_circuit
from circuits.graph.testing import MARGIN, QUANTILE, dependence, holm, least_uneven, uneven_p
from circuits.model.model import Model
from tests.tiny import equal_length_pairs, tiny_model

DRAWS = 400
RANDOM = 100


def rate(rejects: Callable[[np.random.Generator], bool], draws: int = DRAWS) -> float:
    """How often a test rejects, over simulated data."""
    return float(np.mean([rejects(np.random.default_rng(seed)) for seed in range(draws)]))


def at_most_the_level(found: float, draws: int = DRAWS) -> bool:
    """Whether a simulated rate is no more than chance above the level."""
    return stats.binomtest(round(found * draws), draws, LEVEL, "greater").pvalue > 0.01


# --- levels and power ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 16, 30, 100, 300])
@pytest.mark.parametrize("chance", [0.5 - MARGIN, 0.5, 0.55, 0.5 + MARGIN])
def test_the_sign_test_rejects_even_games_no_more_often_than_its_level(n: int, chance: float):
    rejected = [k for k in range(n + 1) if uneven_p(k, n) <= LEVEL]
    assert stats.binom.pmf(rejected, n, chance).sum() <= LEVEL


def test_at_the_margin_the_sign_test_uses_up_its_level_and_beyond_it_rejects():
    rejected = [k for k in range(301) if uneven_p(k, 300) <= LEVEL]
    assert stats.binom.pmf(rejected, 300, 0.5 + MARGIN).sum() > 0.03
    assert stats.binom.pmf(rejected, 300, 0.75).sum() > 0.99
    assert least_uneven(300, LEVEL) == min(k for k in rejected if k > 150) / 300


def test_equivalence_is_rejected_in_simulated_nulls_at_its_level_and_not_for_a_worse_circuit():
    def null(generator: np.random.Generator) -> bool:
        model = generator.normal(size=200)
        sign = np.where(generator.random(200) < 0.5 + MARGIN, 1.0, -1.0)
        return equivalence(model + sign * generator.random(200), model).rejected

    assert at_most_the_level(rate(null))
    generator = np.random.default_rng(0)
    model = generator.normal(size=30)
    worse = equivalence(model - generator.random(30), model)
    assert worse.rejected
    assert "worse on 30 of 30 facts" in worse.sentence


def test_facts_on_which_both_are_equal_decide_nothing():
    model = np.arange(40.0)
    circuit = np.where(np.arange(40) < 20, model, model + 1)
    assert equivalence(circuit, model).n == 20
    same = equivalence(model, model)
    assert same.verdict == "undefined"
    assert not same.rejected
    assert "too few" in equivalence(model[:3] + 1, model[:3]).sentence


@pytest.mark.parametrize("draw", [np.random.Generator.normal, np.random.Generator.standard_cauchy])
def test_independent_columns_are_called_dependent_at_the_level(draw):
    def null(generator: np.random.Generator) -> bool:
        x, y = (draw(generator, size=16) for _ in range(2))
        return dependence(x, y, permutations=99, seed=int(generator.integers(2**31)))[1] <= LEVEL

    found = rate(null)
    assert at_most_the_level(found)
    assert found > LEVEL / 3


def test_a_dependence_without_correlation_is_found():
    x, nothing = np.linspace(-1, 1, 41), np.zeros(41)
    y = x**2
    assert abs(np.corrcoef(x, y)[0, 1]) < 1e-6
    for test in (independence(y, x + 2, nothing), published_independence(y, x, nothing)):
        assert test.rejected
    assert independence(np.ones(41), x, nothing).verdict == "undefined"


def test_what_is_left_is_said_beside_whether_it_goes_with_the_model():
    """HSIC is about facts: of what adds half of the effect, unrelated to it, no evidence."""
    generator, nothing = np.random.default_rng(0), np.zeros(40)
    model = 2 + generator.normal(size=40)
    half = 0.5 * model.mean() + generator.normal(size=40) / 10
    half *= 0.5 * model.mean() / half.mean()
    found = independence(half, model, nothing)
    assert not found.rejected
    assert "across facts; a faithfulness of 0.500 is left" in found.sentence
    few = independence(model / 100, model, nothing)
    assert few.rejected
    assert "little of the effect is left, a faithfulness of 0.010" in few.sentence
    undefined = independence(model, model - model.mean(), nothing)
    assert undefined.rejected
    assert "goes with the model's metric across facts; how much" in undefined.sentence
    assert "little" not in undefined.sentence
    same = independence(model, np.ones(40), nothing).sentence
    assert same == "The model's metric is the same on every fact; a faithfulness of " + (
        f"{model.mean():.3f} is left."
    )


def test_what_the_corrupted_prompt_gives_by_itself_is_not_held_against_the_circuit():
    """Nothing kept goes with the whole model, and the complement adds mere noise to it."""

    def null(generator: np.random.Generator) -> bool:
        model = generator.normal(size=24)
        nothing = -model + generator.normal(size=24) / 10
        rest = nothing + generator.normal(size=24)
        assert published_independence(nothing, model, nothing).rejected
        return independence(rest, model, nothing, int(generator.integers(2**31))).rejected

    with patch.object(hypothesis, "PERMUTATIONS", 99):
        assert at_most_the_level(rate(null, 150), 150)
    model = np.linspace(-1, 1, 24)
    said = published_independence(-model, model, -model).sentence
    assert "but so does the metric of nothing kept" in said


def test_hsic_is_that_of_its_definition():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 12))

    def kernel(values: np.ndarray) -> np.ndarray:
        apart = np.abs(values[:, None] - values)
        return np.exp(-(apart**2) / (2 * np.median(apart[apart > 0]) ** 2))

    centre = np.eye(12) - np.full((12, 12), 1 / 12)
    expected = np.trace(kernel(x) @ centre @ kernel(y) @ centre) / 11**2
    assert dependence(x, y)[0] == pytest.approx(expected)


@pytest.mark.parametrize("edges", [1, 20])
def test_edges_at_the_edge_of_mattering_are_called_idle_at_the_level(edges: int):
    def null(generator: np.random.Generator) -> bool:
        return minimality(np.full(edges, QUANTILE), generator.random(RANDOM))[0].rejected

    assert at_most_the_level(rate(null))


def test_an_edge_that_matters_as_little_as_random_ones_is_called_idle_and_no_other():
    generator = np.random.default_rng(2)
    effects = np.array([5.0, 0.5, 4.0, 0.1])
    test, p = minimality(effects, generator.random(RANDOM))
    assert test.rejected
    assert test.statistic == 2
    assert (p <= LEVEL).tolist() == [False, True, False, True]
    assert "2 of 4 edges" in test.sentence


def test_a_circuit_at_the_edge_of_chance_is_called_nearer_at_the_level():
    def null(generator: np.random.Generator) -> bool:
        return against("size", "others", 1 - QUANTILE, generator.random(RANDOM)).rejected

    assert at_most_the_level(rate(null))


def test_a_random_circuit_among_random_circuits_is_called_nearer_at_the_level():
    def null(generator: np.random.Generator) -> bool:
        own, *others = generator.random(RANDOM + 1)
        return against("size", "others", float(own), np.array(others)).rejected

    assert at_most_the_level(rate(null))
    far = np.random.default_rng(0).random(RANDOM) + 1
    assert against("size", "others", 0.5, far).rejected


def test_holm_rejects_what_his_steps_reject():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])


# --- random counterparts -------------------------------------------------------------------------


@pytest.mark.parametrize("kv", KeyValue)
def test_a_circuit_of_the_same_shape_has_its_edges_by_layer_and_slot(model: Model, kv: KeyValue):
    wiring = model.wiring(kv)
    generator = np.random.default_rng(0)
    circuit = random_circuit(wiring, 20, generator)
    layers = np.array([wiring.src_layers[src] for src in range(wiring.n_src)])
    of_dst = [(wiring.dst_slots[dst], wiring.dst_nodes[dst][:2]) for dst in range(wiring.n_dst)]

    def shape(each: Circuit) -> list[tuple[object, ...]]:
        edges = np.flatnonzero(each.kept)
        return sorted((int(layers[wiring.edge_src[e]]), *of_dst[wiring.edge_dst[e]]) for e in edges)

    drawn = [same_shape(circuit, generator) for _ in range(10)]
    assert all(shape(each) == shape(circuit) for each in drawn)
    assert all(prune(each) == each for each in drawn)
    assert len({each.kept.tobytes() for each in drawn}) > 1


def test_a_random_path_is_connected_and_its_edge_is_new(model: Model):
    generator = np.random.default_rng(0)
    circuit = random_circuit(model.wiring(), 10, generator)
    for _ in range(20):
        made = inflated(circuit, generator)
        assert made is not None
        larger, edge = made
        assert larger.kept[edge]
        assert not circuit.kept[edge]
        assert (circuit.kept <= larger.kept).all()
        assert prune(larger) == larger
    assert inflated(Circuit.full(model.wiring()), generator) is None


# --- on a model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tested() -> tuple[Model, list[TokenPair], Circuit, CircuitTests]:
    """A random circuit of a tiny model, tested on one pair a fact and a second one of the first."""
    model = tiny_model("gpt2")
    by_fact = {pair.text.subject: pair for pair in equal_length_pairs(model)}
    pairs = list(by_fact.values())
    again = [pair for pair in equal_length_pairs(model) if pair not in pairs][:1]
    circuit = random_circuit(model.wiring(), 12, np.random.default_rng(3))
    found = circuit_tests(model, [*pairs, *again], circuit, draws=29)
    assert (found.n_facts, found.n_pairs) == (len(pairs), len(pairs) + len(again))
    return model, [*pairs, *again], circuit, found


def test_an_effect_is_what_the_mean_over_facts_loses_without_the_edge(tested):
    model, pairs, circuit, found = tested
    edge = int(np.flatnonzero(circuit.kept)[4])
    kept = circuit.kept.copy()
    kept[edge] = False
    runs = run_circuits(model, pairs, [circuit, Circuit(circuit.wiring, kept)])
    lost = runs.circuits[0].metric - runs.circuits[1].metric
    subjects = np.array([pair.text.subject for pair in pairs])
    by_fact = [lost[subjects == subject].mean() for subject in dict.fromkeys(subjects)]
    assert found.effects[4] == pytest.approx(abs(np.mean(by_fact)), abs=1e-4)
    assert found.edges == tuple(circuit.edge_names())


def test_the_tests_say_what_their_numbers_say(tested):
    found = tested[-1]
    assert [test.name for test in found.tests] == [
        *("equivalence", "independence", "independence, published"),
        *("minimality", "size", "shape"),
    ]
    for test in found.tests:
        assert test.rejected == (test.p <= LEVEL)
        record = test.as_dict()
        assert record["verdict"] == test.verdict
        assert record["sentence"].endswith(".")
        assert found[test.name] is test
    assert set(found.idle) == {
        edge for edge, p in zip(found.edges, found.edge_p, strict=True) if p <= LEVEL
    }
    with pytest.raises(OptionError, match="there is no test"):
        found["power"]


def test_too_few_draws_and_an_empty_circuit_are_refused(model: Model, pairs):
    wiring = model.wiring()
    with pytest.raises(OptionError, match="no edges"):
        circuit_tests(model, pairs, Circuit.empty(wiring))
    with pytest.raises(OptionError, match="29 draws"):
        circuit_tests(model, pairs, Circuit.full(wiring), draws=28)
