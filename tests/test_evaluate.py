"""Running and measuring circuits: laws, and two independent routes to one number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation, KeyValue, Metric
from circuits.base.errors import NumericalError, OptionError
from circuits.base.intervals import Interval
from circuits.facts.batches import batches
from circuits.graph.ablation import source_constants, source_hooks
from circuits.graph.circuit import Circuit
from circuits.graph.curves import faithfulness_curve
from circuits.graph.evaluate import Outcome, Runs, evaluate, run_circuits, single_edge_drops
from circuits.graph.running import CircuitRunner
from circuits.model.metrics import hit_at
from circuits.model.wiring import Wiring
from locate.report import Worth, minimality, worth_of
from tests.oracles import plain_circuit_run
from tests.tiny import equal_length_pairs, tiny_model


def random_circuit(wiring: Wiring, share: float, seed: int) -> Circuit:
    generator = np.random.default_rng(seed)
    return Circuit(wiring, generator.random(wiring.n_edges) < share)


@pytest.mark.parametrize("kv", KeyValue)
@pytest.mark.parametrize("ablation", Ablation)
def test_the_full_circuit_is_the_clean_run(model, pairs, kv, ablation):
    wiring = model.wiring(kv)
    constants = None if ablation is Ablation.PATCH else source_constants(model, pairs, ablation)
    for batch in batches(pairs, 4):
        runner = CircuitRunner(model, batch, wiring, ablation, constants)
        with torch.no_grad():
            clean = model.last_logits(batch.clean)
        torch.testing.assert_close(runner.run(Circuit.full(wiring)), clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kv", KeyValue)
def test_the_empty_circuit_is_the_corrupted_run(model, pairs, kv):
    wiring = model.wiring(kv)
    for batch in batches(pairs, 4):
        with torch.no_grad():
            corrupted = model.last_logits(batch.corrupted)
        empty = CircuitRunner(model, batch, wiring).run(Circuit.empty(wiring))
        torch.testing.assert_close(empty, corrupted, rtol=1e-4, atol=1e-4)


def test_the_empty_circuit_under_zero_ablation_is_a_run_with_every_source_silenced(model, pairs):
    (batch,) = batches(pairs[:1], 1)
    constants = source_constants(model, pairs, Ablation.ZERO)
    empty = CircuitRunner(model, batch, model.wiring(), Ablation.ZERO, constants)
    names = [name for name, _ in source_hooks(model, lambda key, value: None)]
    silence = [(name, lambda value, hook: torch.zeros_like(value)) for name in names]
    with torch.no_grad():
        silenced = model.last_logits(batch.clean, silence)
    result = empty.run(Circuit.empty(model.wiring()))
    torch.testing.assert_close(result, silenced, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kv", KeyValue)
@pytest.mark.parametrize("ablation", Ablation)
@pytest.mark.parametrize("share", [0.03, 0.3, 0.8])
def test_a_circuit_runs_as_a_plain_node_by_node_computation(model, pairs, kv, ablation, share):
    wiring = model.wiring(kv)
    constants = None if ablation is Ablation.PATCH else source_constants(model, pairs, ablation)
    circuit = random_circuit(wiring, share, seed=int(100 * share))
    for batch in batches(pairs[:3], 4):
        fast = CircuitRunner(model, batch, wiring, ablation, constants).run(circuit)
        plain = plain_circuit_run(model, batch, circuit, constants)
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


def test_batch_mates_leave_a_circuits_outcome_unchanged(model, pairs):
    circuit = random_circuit(model.wiring(), 0.3, 0)
    many = run_circuits(model, pairs, [circuit], batch_size=8).circuits[0].metric
    alone = [run_circuits(model, [pair], [circuit]).circuits[0].metric[0] for pair in pairs]
    np.testing.assert_allclose(many, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", Metric)
def test_faithfulness_is_one_for_the_full_circuit_and_zero_for_the_empty_one(model, pairs, metric):
    wiring = model.wiring()
    runs = run_circuits(model, pairs, [Circuit.full(wiring), Circuit.empty(wiring)], metric=metric)
    assert runs.faithfulness(0).value == pytest.approx(1, abs=1e-3)
    assert runs.faithfulness(1).value == pytest.approx(0, abs=1e-6)
    assert runs.difference(0, 1).value == pytest.approx(1, abs=1e-3)


def test_completeness_is_the_faithfulness_of_the_complement(model, pairs):
    circuit = random_circuit(model.wiring(), 0.5, 1)
    result = evaluate(model, pairs, circuit, resamples=50)
    runs = run_circuits(model, pairs, [~circuit])
    assert result.completeness.value == pytest.approx(runs.faithfulness(0).value, abs=1e-6)
    assert result.n_edges == circuit.n_edges
    assert result.hit_at_10["model"].value == runs.model.hit.mean()


def test_removing_an_edge_that_does_nothing_drops_nothing(model, pairs):
    """An edge into a head whose output no kept edge reads is superfluous."""
    wiring = model.wiring()
    value = wiring.dst_names[wiring.attn_dst(0) + wiring.n_heads + wiring.n_key_inputs]
    useful = [wiring.edge_index(f"input->{value}"), wiring.edge_index("a0.h0->logits")]
    idle = wiring.edge_index("input->a1.h0<q>")
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[[*useful, idle]] = True
    circuit = Circuit(wiring, kept)
    drops = dict(zip(circuit.edges(), single_edge_drops(model, pairs, circuit), strict=True))
    assert drops[idle].value == pytest.approx(0, abs=1e-7)
    assert worth_of(drops[idle]) == Worth.IDLE
    assert all(abs(drops[edge].value) > 1e-3 for edge in useful)
    assert all(worth_of(drops[edge]) != Worth.IDLE for edge in useful)


@pytest.mark.slow
def test_the_drop_of_an_edge_is_the_difference_of_two_circuits_by_another_way(model, pairs):
    circuit = random_circuit(model.wiring(), 0.3, 5)
    asked = [
        replace(pair, text=replace(pair.text, relation=str(n // 6)))
        for n, pair in enumerate([*pairs] * 9)
    ]
    drop = single_edge_drops(model, asked, circuit, resamples=200, seed=4)[3]
    kept = circuit.kept.copy()
    kept[list(circuit.edges())[3]] = False
    runs = run_circuits(model, asked, [circuit, Circuit(circuit.wiring, kept)])
    groups, n = runs.groups, runs.sample.observations
    assert n < len(asked)

    def lost(rows: np.ndarray) -> float:
        """What the edge is worth on these pairs, each as often as it is named."""
        some = runs.at(rows.tolist())
        return some.faithfulness(0, 0).value - some.faithfulness(1, 0).value

    counts = np.random.default_rng(4).multinomial(n, np.full(n, 1 / n), size=200)
    draws = [lost(np.repeat(np.arange(len(asked)), count[groups])) for count in counts]
    assert drop.value == pytest.approx(lost(np.arange(len(asked))), abs=1e-6)
    assert (drop.low, drop.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-6)


def test_an_edge_is_needed_idle_or_harmful_by_its_whole_interval():
    nan = float("nan")
    cases = {
        Worth.NEEDED: [(0.2, 0.1, 0.3), (0.001, 0.001, 0.001), (0.2, nan, nan)],
        Worth.IDLE: [(0.0, -0.0005, 0.0009), (-0.0009, nan, nan)],
        Worth.HARMFUL: [(-0.2, -0.3, -0.1), (-0.2, nan, nan)],
        Worth.UNDECIDED: [(0.2, -0.1, 0.3), (0.01, 0.0005, 0.02), (-0.1, -0.2, 0.0)],
    }
    cases[Worth.UNDECIDED].append((nan, nan, nan))
    for worth, drops in cases.items():
        assert {worth_of(Interval(*drop)) for drop in drops} == {worth}


def test_what_a_circuit_does_better_without_is_not_idle():
    """The counts are by worth, and edges without which faithfulness rises stand last."""
    wiring = Wiring(1, 1, 1)
    circuit = Circuit(wiring, np.arange(wiring.n_edges) < 3)
    drops = [Interval(-0.3, -0.4, -0.2), Interval(0.5, 0.4, 0.6), Interval(0.0, 0.0, 0.0)]
    told = minimality(circuit, drops)
    names = circuit.edge_names()
    assert (told["needed"], told["idle"], told["harmful"], told["undecided"]) == (1, 1, 1, 0)
    assert [row["edge"] for row in told["edges"]] == [names[1], names[2], names[0]]
    assert [row["worth"] for row in told["edges"]] == ["needed", "idle", "harmful"]
    assert told["edges"][2]["low"] == -0.4


def test_faithfulness_is_undefined_where_model_and_empty_circuit_agree():
    same = Outcome(np.ones(4), np.ones(4, dtype=bool))
    value = Runs(same, same, (same,)).faithfulness(0)
    assert np.isnan(value.value)
    assert value.as_dict() == {"value": None, "low": None, "high": None}
    assert str(value) == "undefined"


def test_the_area_under_a_perfect_curve_is_the_width_of_the_grid(model):
    wiring = model.wiring()
    full, empty = Outcome(np.ones(5), np.ones(5, bool)), Outcome(np.zeros(5), np.zeros(5, bool))
    sizes = [wiring.n_edges // 4, wiring.n_edges // 2, wiring.n_edges]
    circuits = [Circuit(wiring, np.arange(wiring.n_edges) < size) for size in sizes]
    curve = faithfulness_curve(Runs(full, empty, (full, full, full)), circuits, resamples=20)
    assert curve.area.value == pytest.approx(1 - sizes[0] / wiring.n_edges)
    assert curve.distance.value == pytest.approx(0)
    worst = faithfulness_curve(Runs(full, empty, (empty, empty, empty)), circuits, resamples=20)
    assert worst.area.value == pytest.approx(0)
    assert worst.distance.value == pytest.approx(1 - sizes[0] / wiring.n_edges)


def test_intervals_cover_the_estimate_and_are_reproducible(model, pairs):
    circuit = random_circuit(model.wiring(), 0.5, 2)
    assert np.isnan(run_circuits(model, pairs[:2], [circuit]).faithfulness(0).low)
    # However often few facts are asked, they are few.
    assert np.isnan(run_circuits(model, pairs * 3, [circuit]).faithfulness(0).low)
    runs = replace(run_circuits(model, pairs * 3, [circuit]), sample=None)
    first, second = runs.faithfulness(0, 200, seed=3), runs.faithfulness(0, 200, seed=3)
    assert first == second
    assert first.low <= first.value <= first.high
    assert first.low < first.high


def test_one_pair_has_no_interval():
    one = Outcome(np.array([2.0]), np.array([True]))
    none = Outcome(np.array([0.0]), np.array([False]))
    value = Runs(one, none, (one,)).faithfulness(0)
    assert value.value == 1
    assert np.isnan(value.low)
    assert str(Interval(1.0, np.nan, np.nan)) == "1.000"


def test_a_circuit_of_another_geometry_is_refused(pairs, model):
    circuit = Circuit.full(Wiring(2, 4, 4))
    with pytest.raises(OptionError, match="but 'tiny"):
        run_circuits(model, pairs, [circuit])


def test_the_model_is_untouched_after_running_circuits(model, pairs):
    before = {name: value.clone() for name, value in model.bridge.state_dict().items()}
    run_circuits(model, pairs, [random_circuit(model.wiring(), 0.5, 3)])
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.bridge.hook_dict.values())
    assert all(
        torch.equal(value, before[name]) for name, value in model.bridge.state_dict().items()
    )


def test_bf16_circuits_run_close_to_fp32(kind):
    from circuits.model.model import Model
    from tests.tiny import gpt2_hf, llama_hf

    exact = tiny_model(kind)
    make = {"gpt2": gpt2_hf, "llama": llama_hf}[kind]
    rough = Model.from_hf(make().to(torch.bfloat16), exact.tokenizer.hf, "bf16")
    pairs = equal_length_pairs(exact)
    circuit = random_circuit(exact.wiring(), 0.5, 4)
    fine = run_circuits(exact, pairs, [circuit]).circuits[0].metric
    coarse = run_circuits(rough, pairs, [circuit]).circuits[0].metric
    np.testing.assert_allclose(fine, coarse, atol=0.15)


def test_the_middle_of_equal_logits_decides_a_hit():
    distinct = torch.arange(20.0).flip(0)[None]
    for token in range(20):
        assert bool(hit_at(distinct, torch.tensor([token]), k=3)) is (token < 3)
    constant = torch.zeros(1, 500)
    assert not hit_at(constant, torch.tensor([0]), k=10)
    two_on_top = torch.tensor([[1.0, 1.0, 0.0]])
    assert hit_at(two_on_top, torch.tensor([1]), k=1)


def test_a_metric_that_is_no_number_is_an_error_and_not_a_result(kind):
    model = tiny_model(kind)
    name = next(name for name in model.parameter_names if ".1." in name and "norm" not in name)
    broken = model.parameter(name).clone()
    broken.view(-1)[0] = float("nan")
    model.set_parameter(name, broken)
    pairs = equal_length_pairs(model)
    with pytest.raises(NumericalError, match=f"whole model .* {pairs[0].text.clean!r}"):
        run_circuits(model, pairs[:1], [])
