"""Edge attribution: the fast contraction against plain implementations, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation, KeyValue, Metric, Rule
from circuits.base.errors import NumericalError, OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.model.metrics import evaluate_metric
from locate.edges.eap import attribute
from locate.edges.locators import Locator
from locate.search import Scoring
from tests.oracles import plain_eap
from tests.tiny import tiny_model

EAP = Scoring(method=Locator.EAP)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_eap_equals_the_plain_implementation(model, pairs):
    ours = attribute(model, pairs, EAP)
    theirs = ours.wiring.from_matrix(plain_eap(model, pairs).numpy())
    assert relative_error(ours.values, theirs) < 1e-4


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("metric", Metric)
def test_eap_ig_equals_the_plain_implementation(model, pairs, rule, metric):
    options = Scoring(steps=3, rule=rule, metric=metric)
    ours = attribute(model, pairs, options)
    theirs = plain_eap(model, pairs, metric, rule.points(3))
    assert relative_error(ours.values, ours.wiring.from_matrix(theirs.numpy())) < 1e-4


def test_ungrouped_scores_summed_over_a_group_are_the_grouped_scores():
    model = tiny_model("llama", heads=6, kv_heads=2, width=48)
    from tests.tiny import equal_length_pairs

    pairs = equal_length_pairs(model)
    grouped = attribute(model, pairs, EAP, keep_pairs=True)
    ungrouped = attribute(
        model, pairs, Scoring(method=Locator.EAP, kv=KeyValue.PER_QUERY_HEAD), keep_pairs=True
    )
    assert ungrouped.wiring.n_edges > grouped.wiring.n_edges
    summed = ungrouped.grouped()
    assert summed.wiring == grouped.wiring
    assert relative_error(summed.values, grouped.values) < 1e-5
    assert relative_error(summed.per_pair, grouped.per_pair) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batch_mates_and_order_leave_scores_unchanged(model, pairs, batch_size):
    whole = attribute(model, pairs, EAP, keep_pairs=True)
    shuffled = attribute(model, pairs[::-1], EAP, batch_size=batch_size, keep_pairs=True)
    alone = [attribute(model, [pair], EAP).values for pair in pairs]
    assert relative_error(shuffled.values, whole.values) < 1e-5
    assert relative_error(shuffled.per_pair[::-1], whole.per_pair) < 1e-5
    assert relative_error(np.stack(alone), whole.per_pair) < 1e-5
    assert relative_error(whole.per_pair.mean(0), whole.values) < 1e-5


@pytest.mark.slow
def test_integrated_gradients_of_the_input_edges_sum_to_the_metric_change(model, pairs):
    """Completeness along the path: all influence enters through `input`'s direct edges' totals.

    The gradient with respect to the embedding is the sum over all destinations that read `input`
    of the total gradient at those destinations, so the scores leaving `input` sum to the change.
    """
    scores = attribute(model, pairs, Scoring(steps=64))
    change = np.mean([_metric_change(model, pair) for pair in pairs])
    assert scores.matrix()[0].sum() == pytest.approx(change, rel=2e-2)


def _metric_change(model, pair: TokenPair) -> float:
    (batch,) = batches([pair], 1)
    with torch.no_grad():
        clean, corrupted = model.last_logits(batch.clean), model.last_logits(batch.corrupted)
    values = [
        evaluate_metric(Metric.LOGIT_DIFFERENCE, logits, batch.answer, batch.foil)
        for logits in (clean, corrupted)
    ]
    return float(values[0] - values[1])


def test_weight_folding_leaves_scores_unchanged(kind, pairs, model):
    raw = attribute(model, pairs, EAP)
    folded = tiny_model(kind)
    folded.bridge.enable_compatibility_mode(disable_warnings=True)
    for parameter in folded.bridge.parameters():
        parameter.requires_grad_(False)
    assert relative_error(attribute(folded, pairs, EAP).values, raw.values) < 1e-4


@pytest.mark.parametrize("ablation", [Ablation.ZERO, Ablation.MEAN])
@pytest.mark.parametrize("method", [Locator.EAP, Locator.EAP_IG])
def test_constant_ablations_score_every_pair_alone_given_the_constants(
    model, pairs, ablation, method
):
    options = Scoring(method=method, steps=2, ablation=ablation)
    one = attribute(model, pairs, options, batch_size=1)
    many = attribute(model, pairs, options, batch_size=8)
    assert relative_error(one.values, many.values) < 1e-5
    assert np.abs(one.values).max() > 1e-3


def test_zero_ablation_scores_are_activation_times_gradient(model, pairs):
    """Scores into the logits: the final norm is differentiated by autograd instead of by hand."""
    options = Scoring(method=Locator.EAP, ablation=Ablation.ZERO)
    ours = attribute(model, pairs[:1], options).matrix()[:, -1]
    (batch,) = batches(pairs[:1], 1)
    seen = {}
    hooks = [
        (f"blocks.{layer}.mlp.hook_out", lambda value, hook, at=layer: seen.__setitem__(at, value))
        for layer in range(model.n_layers)
    ]
    last = f"blocks.{model.n_layers - 1}.hook_out"
    hooks.append((last, lambda value, hook: seen.__setitem__("end", value)))
    with torch.no_grad():
        model.last_logits(batch.clean, hooks)
    end = seen["end"][:, -1].clone().requires_grad_(True)
    logits = model.unembed(end)
    metric = evaluate_metric(Metric.LOGIT_DIFFERENCE, logits, batch.answer, batch.foil)
    (gradient,) = torch.autograd.grad(metric.sum(), end)
    for layer in range(model.n_layers):
        expected = float((seen[layer][:, -1] * gradient).sum())
        assert ours[model.wiring().mlp_src(layer)] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_model_is_untouched_after_attribution_and_after_an_exception(model, pairs):
    before = {name: value.clone() for name, value in model.bridge.state_dict().items()}
    attribute(model, pairs, EAP)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute(model, pairs, EAP, progress=interrupt)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.bridge.hook_dict.values())
    assert all(
        torch.equal(value, before[name]) for name, value in model.bridge.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())


def test_an_error_inside_a_pass_leaves_no_hook_behind(model, pairs, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("broken metric")

    monkeypatch.setattr("locate.edges.runs.evaluate_metric", fail)
    with pytest.raises(RuntimeError, match="broken metric"):
        attribute(model, pairs, EAP)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.bridge.hook_dict.values())


def test_nan_scores_are_refused_and_the_prompt_is_named(kind):
    model = tiny_model(kind)
    from tests.tiny import equal_length_pairs

    with torch.no_grad():
        model.bridge.ln_final.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="not a finite number for the prompt"):
        attribute(model, equal_length_pairs(model), EAP)


def test_kl_with_plain_eap_is_refused_because_it_would_be_zero():
    with pytest.raises(OptionError, match="eap-ig"):
        Scoring(method=Locator.EAP, metric=Metric.KL)


def test_a_step_count_below_one_is_refused():
    with pytest.raises(OptionError, match="steps is at least 1"):
        Scoring(steps=0)


def test_bf16_scores_agree_with_fp32_in_order(kind):
    from tests.tiny import equal_length_pairs, gpt2_hf, llama_hf

    exact = tiny_model(kind)
    pairs = equal_length_pairs(exact)
    make = {"gpt2": gpt2_hf, "llama": llama_hf}[kind]
    from circuits.model.model import Model

    rough = Model.from_hf(make().to(torch.bfloat16), exact.tokenizer.hf, "bf16")
    fine, coarse = attribute(exact, pairs, EAP).values, attribute(rough, pairs, EAP).values
    assert np.corrcoef(fine, coarse)[0, 1] > 0.98
