"""Laws of causal tracing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.base.choices import TraceKind
from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.model.model import Model
from circuits.model.tokens import Span
from experiments.workshop.plain_tracing import plain_trace
from locate.states import sweep
from locate.states.noise import subject_noise, subjects_std
from locate.states.trace_average import trace_facts
from locate.states.trace_result import ALL_KINDS, Trace
from locate.states.tracing import restored_layers, trace, usual_window
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf, metaspace_tokenizer, tiny_model

PROMPT, SUBJECT, ANSWER = "The capital of South Korea is", "South Korea", "Seoul"
CASES = {
    "inside": (PROMPT, SUBJECT, ANSWER),
    "first": ("Peru has its capital in", "Peru", "Lima"),
    "last": ("Paris is the capital of France", "France", "Paris"),
}


@pytest.fixture(scope="module")
def deep() -> dict[str, Model]:
    """Four layers: windows that are clipped below, above, at both ends and not at all."""
    return {kind: tiny_model(kind, layers=4) for kind in ("gpt2", "llama")}


@pytest.fixture(scope="module")
def found() -> Trace:
    return trace(tiny_model("gpt2"), PROMPT, SUBJECT, ANSWER, samples=4)


def hook_count(model: Model) -> int:
    modules = model.bridge.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("window", [1, 2, 3, 10])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_the_sweep_is_the_plain_loop(
    kind: str, deep: dict[str, Model], case: str, window: int
) -> None:
    model, (prompt, subject, answer) = deep[kind], CASES[case]
    traced = trace(model, prompt, subject, answer, window=window, samples=2, seed=5)
    ids = torch.tensor(model.tokenizer.encode(prompt).ids)
    noise = subject_noise(model, len(traced.subject), 3.0, 2, 5)
    for state in ALL_KINDS:
        plain = plain_trace(model, ids, traced.subject, traced.answer_token, noise, state, window)
        for position, expected in plain.items():
            np.testing.assert_allclose(
                traced.probabilities[state][:, position], expected.numpy(), rtol=1e-5, atol=1e-9
            )
        assert np.abs(traced.effect(state)).max() > 1e-3 * traced.p_clean


def test_a_restored_state_is_what_hugging_face_computes_under_torch_hooks(kind: str) -> None:
    if kind == "gpt2":
        hf, tokenizer = gpt2_hf(), byte_level_tokenizer()
        embedding, blocks = hf.transformer.wte, hf.transformer.h
        modules = {"mlp": [b.mlp for b in blocks], "attn": [b.attn for b in blocks]}
        model = Model.from_hf(gpt2_hf(), tokenizer)
    else:
        hf, tokenizer = llama_hf(), metaspace_tokenizer()
        embedding, blocks = hf.model.embed_tokens, hf.model.layers
        modules = {"mlp": [b.mlp for b in blocks], "attn": [b.self_attn for b in blocks]}
        model = Model.from_hf(llama_hf(), tokenizer)
    modules["resid"] = list(blocks)
    traced = trace(model, PROMPT, SUBJECT, ANSWER, window=2, samples=3, noise=2.0, seed=1)
    noise = subject_noise(model, len(traced.subject), 2.0, 3, 1)
    ids = torch.tensor(model.tokenizer.encode(PROMPT).ids).expand(4, -1)
    span, layer, position = traced.subject, 1, traced.subject.last

    def corrupt(module, inputs, output):
        output = output.clone()
        output[1:, span.start : span.stop] += noise
        return output

    def restore(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[1:, position] = hidden[0, position]

    for name in ("resid", "mlp", "attn"):
        layers = [layer] if name == "resid" else [layer - 1, layer]
        hooks = [modules[name][index].register_forward_hook(restore) for index in layers]
        hooks.append(embedding.register_forward_hook(corrupt))
        with torch.no_grad():
            p = hf(ids, use_cache=False).logits[:, -1].softmax(-1)[:, traced.answer_token]
        for hook in hooks:
            hook.remove()
        values = traced.probabilities[TraceKind(name)][layer, position]
        np.testing.assert_allclose(values, p[1:].numpy(), rtol=1e-5)
        assert traced.p_clean == pytest.approx(p[0].item(), rel=1e-5)


def test_the_batch_size_does_not_matter(model: Model) -> None:
    whole = trace(model, PROMPT, SUBJECT, ANSWER, window=2, samples=3)
    for max_rows in (1, 2, 4, 7):
        parts = trace(model, PROMPT, SUBJECT, ANSWER, window=2, samples=3, max_rows=max_rows)
        np.testing.assert_allclose(parts.p_corrupted_samples, whole.p_corrupted_samples, rtol=1e-5)
        for state in ALL_KINDS:
            np.testing.assert_allclose(
                parts.probabilities[state], whole.probabilities[state], rtol=1e-5
            )


def test_no_batch_of_the_sweep_exceeds_the_bound(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    through = model.run_attention
    monkeypatch.setattr(
        model,
        "run_attention",
        lambda layer, residual, earlier: (
            sizes.append(len(residual)) or through(layer, residual, earlier)
        ),
    )
    trace(model, PROMPT, SUBJECT, ANSWER, window=2, samples=3, max_rows=7)
    assert max(sizes) == 6


def test_kinds_traced_alone_are_as_traced_together(model: Model) -> None:
    together = trace(model, PROMPT, SUBJECT, ANSWER, samples=2)
    for state in ALL_KINDS:
        alone = trace(model, PROMPT, SUBJECT, ANSWER, samples=2, kinds=(state,))
        assert alone.kinds == (state,)
        np.testing.assert_allclose(
            alone.probabilities[state], together.probabilities[state], rtol=1e-5
        )


def test_restoring_before_the_subject_or_late_off_the_last_token_changes_nothing(
    model: Model,
) -> None:
    traced = trace(model, PROMPT, SUBJECT, ANSWER, window=1, samples=2)
    for state in ALL_KINDS:
        before = traced.probabilities[state][:, : traced.subject.start]
        assert (before == traced.p_corrupted_samples).all()
        assert (traced.probabilities[state][-1, :-1] == traced.p_corrupted_samples).all()


def test_restoring_the_last_residual_stream_gives_the_clean_probability(model: Model) -> None:
    traced = trace(model, PROMPT, SUBJECT, ANSWER, samples=3)
    restored = traced.probabilities[TraceKind.RESID][-1, -1]
    np.testing.assert_allclose(restored, traced.p_clean, rtol=1e-5)
    assert abs(traced.total_effect) > 1e-3 * traced.p_clean


def test_without_noise_every_state_gives_the_clean_probability(model: Model) -> None:
    traced = trace(model, PROMPT, SUBJECT, ANSWER, noise=0.0, samples=1)
    for state in ALL_KINDS:
        np.testing.assert_allclose(traced.probabilities[state], traced.p_clean, rtol=1e-5)


def test_the_seed_alone_decides_the_noise(model: Model) -> None:
    torch.manual_seed(1)
    first = trace(model, PROMPT, SUBJECT, ANSWER, seed=7, samples=2)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = trace(model, PROMPT, SUBJECT, ANSWER, seed=7, samples=2)
    other = trace(model, PROMPT, SUBJECT, ANSWER, seed=8, samples=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first.p_corrupted_samples == again.p_corrupted_samples).all()
    assert (first.p_corrupted_samples != other.p_corrupted_samples).all()


def test_the_noise_is_in_standard_deviations_of_the_embedding_matrix(model: Model) -> None:
    noise = subject_noise(model, 50, 3.0, 40, 0)
    assert float(noise.std()) == pytest.approx(3 * model.embedding_std(), rel=0.02)


@pytest.mark.parametrize(
    ("window", "layer", "expected"),
    [
        (1, 4, range(4, 5)),
        (2, 4, range(3, 5)),
        (3, 4, range(3, 6)),
        (10, 4, range(0, 9)),
        (10, 11, range(6, 12)),
        (100, 4, range(0, 12)),
    ],
)
def test_a_window_is_as_wide_as_asked_and_clipped_at_the_ends(
    window: int, layer: int, expected: range
) -> None:
    assert restored_layers(TraceKind.MLP, layer, window, 12) == expected
    assert restored_layers(TraceKind.RESID, layer, window, 12) == range(layer, layer + 1)


def test_the_usual_window_is_meng_et_als_at_48_layers_and_scales_with_depth() -> None:
    assert [usual_window(n_layers) for n_layers in (1, 8, 12, 28, 48, 96)] == [1, 1, 2, 5, 10, 20]


def test_bf16_agrees_with_its_own_plain_loop(kind: str) -> None:
    hf = gpt2_hf() if kind == "gpt2" else llama_hf()
    tokenizer = byte_level_tokenizer() if kind == "gpt2" else metaspace_tokenizer()
    model = Model.from_hf(hf.bfloat16(), tokenizer)
    traced = trace(model, PROMPT, SUBJECT, ANSWER, samples=2)
    ids = torch.tensor(model.tokenizer.encode(PROMPT).ids)
    noise = subject_noise(model, len(traced.subject), 3.0, 2, 0)
    for state in ALL_KINDS:
        plain = plain_trace(model, ids, traced.subject, traced.answer_token, noise, state)
        expected = torch.stack(list(plain.values()), 1).numpy()
        np.testing.assert_allclose(traced.probabilities[state], expected, rtol=0.1)


def test_a_bos_token_moves_the_subject_by_one() -> None:
    model = tiny_model("llama")
    plain = trace(model, PROMPT, SUBJECT, ANSWER, samples=1, bos=False)
    with_bos = trace(model, PROMPT, SUBJECT, ANSWER, samples=1, bos=True)
    assert with_bos.subject == Span(plain.subject.start + 1, plain.subject.stop + 1)
    assert with_bos.tokens[1:] == plain.tokens
    assert with_bos.provenance["bos"] is True
    assert "".join(with_bos.tokens[with_bos.subject.start : with_bos.subject.stop]) == " " + SUBJECT


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"subject": "Peru"}, PromptError, "not in the prompt"),
        ({"prompt": "South Korea and South Korea is"}, PromptError, "occurs 2 times"),
        ({"subject": " "}, PromptError, "subject is empty"),
        ({"answer": " "}, PromptError, "is empty"),
        ({"prompt": "  "}, PromptError, "prompt is empty"),
        ({"prompt": PROMPT + " a" * 80}, PromptError, "tokens"),
        ({"window": 0}, OptionError, "window"),
        ({"samples": 0}, OptionError, "sample"),
        ({"noise": -1.0}, OptionError, "noise"),
        ({"noise": float("nan")}, OptionError, "noise"),
        ({"max_rows": 0}, OptionError, "row"),
        ({"kinds": ()}, OptionError, "kind"),
    ],
)
def test_a_mistake_gets_one_clear_line(change: dict, error: type, words: str) -> None:
    model = tiny_model("gpt2")
    arguments = {"prompt": PROMPT, "subject": SUBJECT, "answer": ANSWER, **change}
    with pytest.raises(error, match=words) as caught:
        trace(model, **arguments)
    assert "\n" not in str(caught.value)


def test_a_broken_model_is_reported_and_not_traced() -> None:
    model = tiny_model("gpt2")
    model.bridge.ln_final.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="NaN"):
        trace(model, PROMPT, SUBJECT, ANSWER, samples=1)


def test_hooks_and_weights_are_untouched_also_after_an_exception(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = hook_count(model)
    weights = [parameter.clone() for parameter in model.bridge.parameters()]
    trace(model, PROMPT, SUBJECT, ANSWER, samples=1)
    assert hook_count(model) == hooks
    with pytest.raises(RuntimeError):  # noise of another width: fails inside a hook
        sweep.corrupted_run(
            model, torch.arange(5), Span(1, 3), torch.zeros(2, 2, model.d_model + 1), 3
        )
    assert hook_count(model) == hooks

    def fail(*arguments):
        raise ArithmeticError

    monkeypatch.setattr(model, "run_mlp", fail)
    with pytest.raises(ArithmeticError):
        trace(model, PROMPT, SUBJECT, ANSWER, samples=1)
    assert hook_count(model) == hooks
    after = model.bridge.parameters()
    assert all(torch.equal(old, new) for old, new in zip(weights, after, strict=True))


def test_to_arrays_and_back_is_identity(found: Trace) -> None:
    again = Trace.from_arrays(found.arrays(), found.metadata())
    assert again.metadata() == found.metadata()
    assert again.arrays().keys() == found.arrays().keys()
    for name, values in found.arrays().items():
        assert (again.arrays()[name] == values).all()


def test_arrays_that_do_not_fit_are_refused(found: Trace) -> None:
    arrays, metadata = found.arrays(), found.metadata()
    with pytest.raises(OptionError, match="not a trace"):
        Trace.from_arrays({"p_corrupted": arrays["p_corrupted"], "other": arrays}, metadata)
    with pytest.raises(OptionError, match="not a trace"):
        Trace.from_arrays(arrays, {**metadata, "tokens": ["one"]})
    with pytest.raises(OptionError, match="not a trace"):
        Trace.from_arrays(arrays, {})


def test_rows_hold_every_state_once(found: Trace) -> None:
    rows = found.rows()
    assert len(rows) == 3 * 3 * len(found.tokens)
    for row in rows:
        kind, layer, position = TraceKind(row["kind"]), row["layer"], row["position"]
        assert row["effect"] == pytest.approx(found.effect(kind)[layer, position])
        assert row["token"] == found.tokens[position]


def test_the_standard_error_is_that_of_the_paired_gains(found: Trace) -> None:
    gains = found.probabilities[TraceKind.MLP][0, 4] - found.p_corrupted_samples
    expected = np.sqrt(gains.var(ddof=1) / 4)
    assert found.standard_error(TraceKind.MLP)[0, 4] == pytest.approx(expected)
    single = replace(
        found,
        p_corrupted_samples=found.p_corrupted_samples[:1],
        probabilities={k: v[..., :1] for k, v in found.probabilities.items()},
    )
    assert np.isnan(single.standard_error(TraceKind.MLP)).all()


def test_asking_for_a_kind_that_was_not_traced_is_an_error(found: Trace) -> None:
    part = replace(found, probabilities={TraceKind.MLP: found.probabilities[TraceKind.MLP]})
    with pytest.raises(OptionError, match="attn was not traced"):
        part.effect(TraceKind.ATTN)


def test_the_noise_is_in_units_of_the_matrix_or_of_the_subjects_embeddings(model):
    weight = model.bridge.embed.weight
    ids = [
        token for each in ("France", "Peru") for token in model.tokenizer.encode(each, False).ids
    ]
    wanted = float(weight[torch.tensor(ids)].std())
    assert subjects_std(model, ["France", "Peru"]) == pytest.approx(wanted, rel=1e-5)
    own = subjects_std(model, [SUBJECT])
    assert own != pytest.approx(model.embedding_std(), rel=1e-3)
    by_name = trace(model, PROMPT, SUBJECT, ANSWER, samples=2, noise_unit="subjects")
    by_number = trace(model, PROMPT, SUBJECT, ANSWER, samples=2, noise_unit=own)
    np.testing.assert_array_equal(by_name.p_corrupted_samples, by_number.p_corrupted_samples)
    scaled = trace(model, PROMPT, SUBJECT, ANSWER, samples=2, noise=3 * own / model.embedding_std())
    assert scaled.p_corrupted == pytest.approx(by_name.p_corrupted, rel=1e-4)
    assert (by_name.provenance["noise_unit"], scaled.provenance["noise_unit"]) == (
        "subjects",
        "matrix",
    )
    with pytest.raises(OptionError, match="above 0"):
        trace(model, PROMPT, SUBJECT, ANSWER, noise_unit=0.0)


def test_facts_are_traced_with_the_deviation_of_all_their_subjects(model, pairs):
    subjects = list(dict.fromkeys(pair.text.subject for pair in pairs[:2]))
    average = trace_facts(model, pairs[:2], samples=2, noise_unit="subjects")
    assert average.provenance["embedding_std"] == subjects_std(model, subjects)
    assert average.provenance["noise_unit"] == "subjects"
