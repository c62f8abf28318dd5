"""Training a change of weights, and fine-tuning: FT-L and FT-M."""

from __future__ import annotations

import pytest
import torch

from circuits.base.choices import EditStatus
from circuits.base.errors import OptionError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.finetune import FineTuneSettings, fine_tune
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import edit
from circuits.edits.parts.training import (
    DivergenceError,
    Trainee,
    divergence,
    negative_log_likelihood,
    passage,
    token_accuracy,
)
from circuits.model.model import Model, load
from tests.test_edit import same, weights
from tests.tiny import byte_level_tokenizer, gpt2_hf

REQUESTS = (
    EditRequest("The capital of {} is", "Peru", "Oslo"),
    EditRequest("People in {} speak", "Norway", "Japanese"),
)


def texts(model: Model) -> list:
    return [passage(model, each.text, each.target) for each in REQUESTS]


def test_the_plain_model_is_the_model(model):
    tokens = torch.tensor([model.tokenizer.encode("In Peru the capital is").ids])
    plain, shared = model.to_hf(), model.to_hf(share=True)
    name = model.mlp_output_name(1)
    delta = WeightDelta({name: torch.randn_like(model.parameter(name))})
    with torch.no_grad():
        before = model.last_logits(tokens)
        torch.testing.assert_close(plain(tokens).logits[:, -1], before, rtol=1e-5, atol=1e-5)
        with delta.applied(model):
            after = model.last_logits(tokens)
            torch.testing.assert_close(shared(tokens).logits[:, -1], after, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(plain(tokens).logits[:, -1], before, rtol=1e-5, atol=1e-5)
        for parameter in plain.parameters():
            parameter.zero_()
        assert torch.equal(model.last_logits(tokens), before)


def test_the_loss_is_hugging_faces_and_does_not_depend_on_the_batch(model):
    trainee, plain = Trainee(model), model.to_hf()
    losses = negative_log_likelihood(trainee, texts(model))
    for loss, each in zip(losses, texts(model), strict=True):
        ids = torch.tensor([each.ids])
        labels = ids.clone()
        labels[:, : each.start] = -100
        torch.testing.assert_close(loss, plain(ids, labels=labels).loss, rtol=1e-5, atol=1e-5)
    assert token_accuracy(trainee, texts(model))[0] == pytest.approx(float(losses.mean()), 1e-5)


def test_an_unchanged_model_does_not_diverge_from_itself_and_a_changed_one_does(model):
    trainee = Trainee(model)
    (change,) = trainee.train([model.mlp_output_name(1)])
    assert divergence(trainee, texts(model)).tolist() == pytest.approx([0, 0], abs=1e-6)
    with torch.no_grad():
        change.add_(torch.randn_like(change))
    assert bool((divergence(trainee, texts(model)) > 0.01).all())


def test_training_is_adam_on_the_weights_of_a_plain_copy(model):
    settings = FineTuneSettings(steps=4, learning_rate=1e-3, stop_below=0.0)
    delta, details = fine_tune(model, REQUESTS, (1,), settings)
    plain, name = model.to_hf(), model.mlp_output_name(1)
    weight = plain.get_parameter(name).requires_grad_()
    optimiser, losses = torch.optim.Adam([weight], lr=1e-3), []
    for _ in range(4):
        rows = []
        for each in texts(model):
            labels = torch.tensor([(-100,) * each.start + each.ids[each.start :]])
            rows.append(plain(torch.tensor([each.ids]), labels=labels).loss)
        loss = torch.stack(rows).mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert details["losses"] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(
        delta.dense(name), weight.detach() - model.parameter(name), rtol=1e-2, atol=2e-5
    )


@pytest.mark.parametrize("method", [EditMethod.FT_M, EditMethod.FT_L])
def test_fine_tuning_makes_the_target_likelier_and_leaves_the_model_as_it_was(model, method):
    before = weights(model)
    outcome = edit(model, REQUESTS, method, layers=[1, 2], settings={"learning_rate": 2e-3})
    assert outcome.status is EditStatus.DONE
    assert outcome.details["loss"] < outcome.details["losses"][0]
    assert set(outcome.delta.changes) == {model.mlp_output_name(1), model.mlp_output_name(2)}
    assert same(weights(model), before)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())
    assert all(parameter.grad is None for parameter in model.bridge.parameters())


def test_the_last_loss_is_that_of_the_model_with_the_delta(model):
    delta, details = fine_tune(model, REQUESTS, (0,), FineTuneSettings(steps=3))
    with delta.applied(model):
        applied = float(negative_log_likelihood(Trainee(model), texts(model)).mean())
    assert details["loss"] == pytest.approx(applied, rel=1e-5)


def test_the_clamp_bounds_every_entry_and_is_reached(model):
    settings = FineTuneSettings(steps=10, learning_rate=1e-2, clamp=3e-3)
    delta, _ = fine_tune(model, REQUESTS, (1,), settings)
    largest = delta.dense(model.mlp_output_name(1)).abs().max()
    assert float(largest) == pytest.approx(3e-3)


def test_ft_l_and_ft_m_differ_by_the_target_tokens_after_the_first(model):
    def both(request: EditRequest, target_tokens: int) -> list[torch.Tensor]:
        assert len(model.tokenizer.continuation(request.text, request.target)) == target_tokens
        found = []
        for at_prompt in (False, True):
            settings = FineTuneSettings(steps=3, at_prompt_only=at_prompt)
            delta, _ = fine_tune(model, [request], (1,), settings)
            found.append(delta.dense(model.mlp_output_name(1)))
        return found

    single = next(w for w in ("is", "a", "the", "of") if _tokens(model, w) == 1)
    m, last = both(EditRequest("The capital of {} is", "Peru", single), 1)
    torch.testing.assert_close(m, last)
    several = "Japanese Oslo"
    count = _tokens(model, several)
    assert count > 1
    m, last = both(EditRequest("The capital of {} is", "Peru", several), count)
    assert not torch.allclose(m, last, atol=1e-4)


def _tokens(model: Model, target: str) -> int:
    return len(model.tokenizer.continuation("The capital of Peru is", target))


def test_a_diverging_edit_is_reported_and_leaves_the_model_as_it_was(model):
    before = weights(model)
    with pytest.raises(DivergenceError, match="not finite"):
        fine_tune(model, REQUESTS, (1,), FineTuneSettings(learning_rate=3e37, steps=5))
    outcome = edit(model, REQUESTS, "ft", layers=[1], settings={"learning_rate": 3e37})
    assert outcome.status is EditStatus.DIVERGED
    assert outcome.delta is None
    assert same(weights(model), before)


def test_an_exception_on_the_way_leaves_the_model_as_it_was(model):
    before = weights(model)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, REQUESTS, (1,), FineTuneSettings(stop_below=0.0), progress=stop)
    assert same(weights(model), before)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())


def test_a_tied_and_a_joint_matrix_can_be_trained(kind, model):
    """GPT-2's embedding is its output matrix too, its attention matrix one for q, k and v."""
    trainee = Trainee(model)
    names = [n for n in model.parameter_names if "embed" in n or "wte" in n or "attn" in n]
    names = [n for n in names if model.parameter(n).ndim == 2]
    changes = trainee.train(names)
    negative_log_likelihood(trainee, texts(model)).mean().backward()
    generator = torch.Generator().manual_seed(0)
    step = [torch.randn(c.shape, generator=generator) * 1e-2 for c in changes]
    slope = sum(float((c.grad * s).sum()) for c, s in zip(changes, step, strict=True))
    values = []
    for sign in (1, -1):
        small = {n: sign * 0.1 * s for n, s in zip(names, step, strict=True)}
        with WeightDelta(small).applied(model):
            values.append(float(negative_log_likelihood(Trainee(model), texts(model)).mean()))
    assert 0.2 * slope == pytest.approx(values[0] - values[1], rel=0.05)


def test_a_model_in_bf16_is_trained_in_fp32():
    model = Model.from_hf(gpt2_hf().to(torch.bfloat16), byte_level_tokenizer(), "tiny")
    before = weights(model)
    delta, details = fine_tune(model, REQUESTS, (1,), FineTuneSettings(learning_rate=2e-3))
    assert delta.dense(model.mlp_output_name(1)).dtype is torch.float32
    assert details["loss"] < 0.8 * details["losses"][0]
    assert same(weights(model), before)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"learning_rate": 0.0}, {"clamp": -1.0}])
def test_absurd_settings_are_refused(model, bad):
    with pytest.raises(OptionError):
        edit(model, REQUESTS, "ft", layers=[1], settings=bad)


def test_ft_rewrites_a_fact_of_the_embedded_model():
    model = load("facts-gpt2", device="cpu")
    outcome = edit(model, EditRequest("The capital of {} is", "Norway", "Lima"), "ft")
    assert outcome.layers == (2,)
    assert outcome.details["probability_after"][0] > 0.9
