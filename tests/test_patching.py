"""Exact edge patching against brute force, its limits, and ACDC against the plain greedy loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation, KeyValue, Metric
from circuits.base.errors import NumericalError, OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.running import CircuitRunner
from circuits.graph.select import prune
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.edges.acdc import acdc
from locate.edges.eap import attribute
from locate.edges.exact import patch_chosen_edges, patch_edges
from locate.edges.locators import Locator
from locate.edges.score import score_edges
from locate.search import Scoring, Search
from tests.oracles import plain_circuit_run
from tests.tiny import equal_length_pairs, tiny_model


@pytest.fixture(scope="module")
def _shallow_models() -> dict[str, Model]:
    return {}


@pytest.fixture
def shallow(kind: str, _shallow_models: dict[str, Model]) -> Model:
    """Two layers, so that one run an edge is affordable."""
    if kind not in _shallow_models:
        _shallow_models[kind] = tiny_model(kind, layers=2)
    return _shallow_models[kind]


def all_but(wiring: Wiring, edge: int) -> Circuit:
    return Circuit(wiring, np.arange(wiring.n_edges) != edge)


def brute_force(model: Model, pairs: list[TokenPair], options: Scoring) -> np.ndarray:
    """One run of the full circuit minus an edge, for every edge, in batches of two."""
    wiring, constants = model.wiring(options.kv), None
    if options.ablation is not Ablation.PATCH:
        constants = source_constants(model, pairs, options.ablation)
    scores = np.empty((len(pairs), wiring.n_edges))
    for batch in batches(pairs, 2):
        runner = CircuitRunner(model, batch, wiring, options.ablation, constants)
        with torch.no_grad():
            clean = model.last_logits(batch.clean)

        def value(logits, batch=batch, clean=clean):
            return evaluate_metric(options.metric, logits, batch.answer, batch.foil, clean)

        for edge in range(wiring.n_edges):
            drop = value(clean) - value(runner.run(all_but(wiring, edge)))
            scores[list(batch.index), edge] = drop.numpy()
    return scores


def assert_same_scores(ours: np.ndarray, theirs: np.ndarray, relative: float = 1e-4) -> None:
    assert np.abs(theirs).max() > 1e-2  # far above rounding
    assert np.abs(ours - theirs).max() < relative * np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize("kv", KeyValue)
@pytest.mark.parametrize("ablation", Ablation)
def test_a_score_is_the_drop_of_a_run_of_the_full_circuit_minus_the_edge(shallow, kv, ablation):
    pairs = equal_length_pairs(shallow)[:2]
    options = Scoring(ablation=ablation, kv=kv)
    scores = patch_edges(shallow, pairs, options, keep_pairs=True)
    assert_same_scores(scores.per_pair, brute_force(shallow, pairs, options))
    np.testing.assert_allclose(scores.values, scores.per_pair.mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Metric.LOG_PROBABILITY, Metric.KL])
def test_other_metrics_equal_brute_force_too(shallow, metric):
    pairs, options = equal_length_pairs(shallow)[:2], Scoring(metric=metric)
    scores = patch_edges(shallow, pairs, options, keep_pairs=True)
    theirs = brute_force(shallow, pairs, options)
    assert np.abs(scores.per_pair - theirs).max() < 2e-6 < 1e-4 < np.abs(theirs).max()


@pytest.mark.parametrize("kv", KeyValue)
def test_every_edge_equals_the_plain_node_by_node_run(shallow, kv):
    pairs = equal_length_pairs(shallow)[:1]
    wiring = shallow.wiring(kv)
    (batch,) = batches(pairs, 1)

    def value(circuit: Circuit) -> float:
        logits = plain_circuit_run(shallow, batch, circuit)
        return float(evaluate_metric(Metric.LOGIT_DIFFERENCE, logits, batch.answer, batch.foil))

    full = value(Circuit.full(wiring))
    plain = np.array([full - value(all_but(wiring, edge)) for edge in range(wiring.n_edges)])
    assert_same_scores(patch_edges(shallow, pairs, Scoring(kv=kv)).values, plain)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "max_rows"), [(1, 7), (2, 3), (3, 16)])
def test_batch_size_row_limit_and_order_leave_scores_unchanged(model, pairs, batch_size, max_rows):
    whole = patch_edges(model, pairs, keep_pairs=True)
    split = patch_edges(
        model, pairs[::-1], batch_size=batch_size, max_rows=max_rows, keep_pairs=True
    )
    assert_same_scores(split.per_pair[::-1], whole.per_pair)


def test_chosen_edges_have_the_scores_they_have_among_all(model, pairs):
    everything = patch_edges(model, pairs, keep_pairs=True)
    wiring = everything.wiring
    picked = np.random.default_rng(0).permutation(wiring.n_edges)[:40]
    names = [wiring.edge_name(edge) for edge in picked]
    chosen = patch_chosen_edges(model, pairs, [*names[:20], *picked[20:].tolist()])
    assert chosen.names == tuple(names)
    assert_same_scores(chosen.per_pair, everything.per_pair[:, picked])
    assert chosen[names[3]] == pytest.approx(everything[names[3]], abs=1e-6)


@pytest.mark.parametrize("method", ["relp", "eap-gp"])
def test_the_scoring_of_a_method_with_options_of_its_own_is_taken(shallow, method):
    """Metric, ablation and kv of it count, and the record says what was done."""
    pairs = equal_length_pairs(shallow)[:1]
    theirs: dict[str, Any] = {"metric": "log-prob", "ablation": "zero"}
    scoring = Scoring.of(None, {"method": method, **theirs})
    name = shallow.wiring().edge_name(0)
    assert scoring.options is not None
    found = patch_chosen_edges(shallow, pairs, [name], scoring)
    expected = patch_chosen_edges(shallow, pairs, [name], **theirs)
    assert np.array_equal(found.values, expected.values)
    assert found.provenance == expected.provenance
    assert found.provenance["method"] == "exact"
    greedy = acdc(shallow, pairs, 10.0, scoring).provenance
    assert greedy == acdc(shallow, pairs, 10.0, **theirs).provenance
    assert greedy["method"] == "acdc"


def test_as_the_corruption_shrinks_attribution_becomes_exact(kind):
    """EAP is the first-order term of exact patching: its error falls with the square, scores do
    not, so that the relative error is proportional to the corruption."""
    errors = []
    for share in (0.3, 0.03):
        model = tiny_model(kind)
        pair = equal_length_pairs(model)[0]
        table = model.bridge.embed.weight
        with torch.no_grad():
            for clean, corrupted in zip(pair.clean.ids, pair.corrupted.ids, strict=True):
                table[corrupted] = torch.lerp(table[clean], table[corrupted], share)
        exact = patch_edges(model, [pair]).values
        estimated = attribute(model, [pair], Scoring(method=Locator.EAP)).values
        errors.append(np.abs(estimated - exact).max() / np.abs(exact).max())
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 4


def test_edges_from_a_head_that_writes_nothing_score_zero(kind):
    model = tiny_model(kind)
    with torch.no_grad():
        model.head_output_weights(0)[1] = 0
    options = Scoring(ablation=Ablation.ZERO)
    scores = patch_edges(model, equal_length_pairs(model)[:1], options).matrix()
    silent, loud = (scores[model.wiring().head_src(0, head)] for head in (1, 2))
    assert np.abs(silent).max() < 1e-5 < 1e-3 < np.abs(loud).max()


def test_the_model_is_untouched_after_patching_and_after_an_exception(model, pairs):
    before = {name: value.clone() for name, value in model.bridge.state_dict().items()}
    patch_edges(model, pairs[:1])

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for method in (patch_edges, lambda *rest, **options: acdc(*rest, 0.1, **options)):
        with pytest.raises(KeyboardInterrupt):
            method(model, pairs[:1], progress=interrupt)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.bridge.hook_dict.values())
    assert all(
        torch.equal(value, before[name]) for name, value in model.bridge.state_dict().items()
    )


def test_progress_counts_every_edge_of_every_pair(model, pairs):
    calls: list[tuple[int, int]] = []
    patch_edges(model, pairs, progress=lambda done, total: calls.append((done, total)))
    total = len(pairs) * model.wiring().n_edges
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_nan_scores_are_refused_and_the_prompt_is_named(kind):
    model = tiny_model(kind)
    pairs = equal_length_pairs(model)
    with torch.no_grad():
        model.bridge.ln_final.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="for the prompt 'The capital"):
        patch_edges(model, pairs)
    with pytest.raises(NumericalError, match="of the whole model"):
        acdc(model, pairs, 0.1)


def test_absurd_arguments_are_refused(model, pairs):
    with pytest.raises(OptionError, match="at least 1 row"):
        patch_edges(model, pairs, max_rows=0)
    with pytest.raises(OptionError, match="no prompt pairs"):
        patch_edges(model, [])
    with pytest.raises(OptionError, match="at least one edge"):
        patch_chosen_edges(model, pairs, [])
    with pytest.raises(OptionError, match="points down"):
        patch_chosen_edges(model, pairs, ["m1->a0.h0<q>"])
    with pytest.raises(OptionError, match="there is no edge -1"):
        patch_chosen_edges(model, pairs, [-1])
    with pytest.raises(OptionError, match="no prompt pairs"):
        acdc(model, [], 0.1)


# --- ACDC ------------------------------------------------------------------------------------


def plain_acdc(
    model: Model, pairs: list[TokenPair], threshold: float, options: Scoring
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper, with a run for every edge; kept edges and measured drops."""
    wiring = model.wiring(options.kv)
    runs = []
    for batch in batches(pairs, 4):
        with torch.no_grad():
            clean = model.last_logits(batch.clean)
        runs.append((batch, CircuitRunner(model, batch, wiring), clean))

    def value(kept: np.ndarray) -> float:
        values = [
            evaluate_metric(
                options.metric, runner.run(Circuit(wiring, kept)), batch.answer, batch.foil, clean
            )
            for batch, runner, clean in runs
        ]
        return float(torch.cat(values).double().mean())

    kept, drops = np.ones(wiring.n_edges, dtype=bool), np.zeros(wiring.n_edges)
    for edge in range(wiring.n_edges)[::-1]:
        without = kept.copy()
        without[edge] = False
        drops[edge] = value(kept) - value(without)
        if drops[edge] < threshold:
            kept = without
    return kept, drops


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [Scoring(), Scoring(kv=KeyValue.PER_QUERY_HEAD), Scoring(metric=Metric.KL)],
    ids=lambda options: f"{options.metric}-{options.kv}",
)
def test_acdc_equals_the_plain_greedy_loop(shallow, options):
    # Of one length: KL of other batches differs by 3e-7, which an effect may be from the threshold.
    every = equal_length_pairs(shallow)
    pairs = [pair for pair in every if len(pair.clean) == len(every[0].clean)][:2]
    assert len(pairs) == 2
    threshold = moderate_threshold(shallow, pairs, options)
    kept, drops = plain_acdc(shallow, pairs, threshold, options)
    circuit = acdc(shallow, pairs, threshold, options)
    wiring = circuit.wiring
    assert 5 < kept.sum() < wiring.n_edges - 5
    np.testing.assert_array_equal(circuit.kept, prune(Circuit(wiring, kept)).kept)
    np.testing.assert_allclose(circuit.scores.values, drops, atol=2e-6)
    assert circuit.provenance["selection"]["edges_selected"] == kept.sum()


def test_acdc_tries_the_inputs_of_a_shared_value_while_any_head_of_its_group_is_read():
    model = tiny_model("llama", layers=2)
    with torch.no_grad():
        for layer in range(2):  # the first head of each group is cut off at once, the second not
            model.head_output_weights(layer)[[0, 2]] = 0
    pairs = equal_length_pairs(model)[:2]
    threshold = moderate_threshold(model, pairs, Scoring())
    kept, drops = plain_acdc(model, pairs, threshold, Scoring())
    circuit = acdc(model, pairs, threshold)
    assert any(circuit.wiring.edge_name(edge).endswith("<v>") for edge in np.flatnonzero(kept))
    assert circuit.provenance["selection"]["edges_selected"] == kept.sum()
    np.testing.assert_allclose(circuit.scores.values, drops, atol=2e-6)


def moderate_threshold(model: Model, pairs: list[TokenPair], options: Scoring) -> float:
    """Between the effects there are, and far from rounding."""
    return float(patch_edges(model, pairs, options).values.max() / 50)


def test_a_number_of_edges_bounds_acdc_s_and_the_record_counts_what_it_leaves(shallow, monkeypatch):
    pairs = equal_length_pairs(shallow)[:2]
    threshold = moderate_threshold(shallow, pairs, Scoring())
    whole = acdc(shallow, pairs, threshold)
    most = whole.n_edges - 3
    monkeypatch.setattr("locate.edges.acdc.DEFAULT_TAU", threshold)
    circuit = score_edges(shallow, pairs, Search(method=Locator.ACDC, edges=most))
    best = np.argsort(-np.where(whole.kept, whole.scores.values, -np.inf), kind="stable")[:most]
    kept = np.zeros_like(whole.kept)
    kept[best] = True
    np.testing.assert_array_equal(circuit.kept, prune(Circuit(whole.wiring, kept)).kept)
    record = circuit.provenance["selection"]
    assert record["edges_selected"] == record["n"] == most
    assert record["edges_after_pruning"] == circuit.n_edges


def test_a_removed_edge_costs_less_than_the_threshold_and_a_kept_one_does_not(shallow):
    pairs = equal_length_pairs(shallow)[:2]
    threshold = moderate_threshold(shallow, pairs, Scoring())
    circuit = acdc(shallow, pairs, threshold)
    assert circuit.n_edges > 0
    assert (circuit.scores.values[circuit.kept] >= threshold).all()
    removed = circuit.wiring.n_edges - circuit.provenance["selection"]["edges_selected"]
    assert (circuit.scores.values < threshold).sum() == removed


def test_a_threshold_above_every_effect_leaves_nothing_and_tries_only_the_logits_edges(
    model, pairs
):
    circuit = acdc(model, pairs, 1e6)
    assert circuit.n_edges == 0
    assert circuit.provenance["selection"]["runs"] == 1 + model.wiring().n_src


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_a_negative_or_infinite_threshold_is_refused(model, pairs, threshold):
    with pytest.raises(OptionError, match="finite number from 0 up"):
        acdc(model, pairs, threshold)


@pytest.mark.parametrize("ablation", [Ablation.ZERO, Ablation.MEAN])
def test_acdc_scores_into_the_last_edge_are_exact_patching(model, pairs, ablation):
    """The first edge tried is removed from the whole model, as exact patching does."""
    options = Scoring(ablation=ablation)
    circuit = acdc(model, pairs[:2], 0.1, options)
    name = circuit.wiring.edge_name(circuit.wiring.n_edges - 1)
    exact = patch_chosen_edges(model, pairs[:2], [name], options)
    assert circuit.scores[name] == pytest.approx(exact[name], rel=1e-3, abs=1e-5)
