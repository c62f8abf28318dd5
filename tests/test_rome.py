"""ROME's laws, the value that it shares with MEMIT, and what `edit` refuses or reports."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch

from circuits.base.choices import EditStatus
from circuits.base.errors import OptionError, PromptError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.rome import Keys, RomeSettings, Written, rank_one, rome
from circuits.edits.methods.run import EditOutcome, edit
from circuits.edits.parts.contexts import (
    MEMIT_CONTEXTS,
    ContextSettings,
    place,
    sample_contexts,
)
from circuits.edits.parts.corpus import Corpus, atlas_corpus
from circuits.edits.parts.keys import (
    at_subject,
    capture,
    key_point,
    residual_point,
    value_point,
)
from circuits.edits.parts.moments import Moments, collect_moments
from circuits.edits.parts.value import KlPosition, ValueSettings, optimise_values
from circuits.edits.settings import settings_for
from circuits.facts.batches import padded
from circuits.model.continuing import run_above
from circuits.model.model import Model, load
from tests.edits import OTHER, QUICK, REQUEST, TEXT, same, weights
from tests.tiny import byte_level_tokenizer, gpt2_hf, tiny_model

LAYER = 1
CONTEXTS = ContextSettings(lengths=(4, 6), copies=1)
FREE = ValueSettings(weight_decay=0.0, clamp=20.0)  # a random model resists more than a trained one


@pytest.fixture
def moments(model: Model) -> Moments:
    return collect_moments(model, TEXT, range(model.n_layers))


@pytest.fixture(scope="module")
def facts_gpt2() -> tuple[Model, Moments]:
    model = load("facts-gpt2", device="cpu")
    corpus = Corpus("a part of the atlas", atlas_corpus().texts[:60])
    return model, collect_moments(model, corpus, [2, 3, 4, 5])


@torch.no_grad()
def values(model: Model, contexts: tuple[str, ...]) -> torch.Tensor:
    """Mean MLP output at the subject over contexts, from runs of the whole model."""
    found = []
    for context in contexts:
        prompt = place(model, REQUEST, context)
        kept = {}
        model.last_logits(
            torch.tensor([prompt.ids]),
            [(value_point(LAYER), lambda value, hook, kept=kept: kept.update(value=value))],
        )
        found.append(kept["value"][0, prompt.subject_last])
    return torch.stack(found).mean(0)


def run_rome(model: Model, moments: Moments, keys: Keys = Keys.MEAN) -> WeightDelta:
    settings = RomeSettings((LAYER,), FREE, CONTEXTS, keys)
    generator = torch.Generator().manual_seed(0)
    return rome(model, [REQUEST], [LAYER], settings, moments, generator)[0]


def optimised(model: Model, contexts: tuple[str, ...]) -> torch.Tensor:
    with torch.no_grad():
        scale = values(model, ("",))[None]
    (found,) = optimise_values(model, [REQUEST], LAYER, contexts, scale, FREE)
    return found.delta


def test_the_edited_weights_map_the_mean_key_to_the_value(model, moments):
    contexts = sample_contexts(model, CONTEXTS, torch.Generator().manual_seed(0))
    wanted = values(model, ("",)) + optimised(model, contexts)
    with run_rome(model, moments).applied(model):
        after = values(model, contexts)
    torch.testing.assert_close(after, wanted, rtol=1e-3, atol=1e-3)
    assert (after - values(model, contexts)).norm() > 0.1  # there was something to map


def test_the_original_maps_the_bare_prompts_key_and_differs(model, moments):
    contexts = sample_contexts(model, CONTEXTS, torch.Generator().manual_seed(0))
    wanted = values(model, ("",)) + optimised(model, contexts)
    original = run_rome(model, moments, Keys.ORIGINAL)
    with original.applied(model):
        torch.testing.assert_close(values(model, ("",)), wanted, rtol=1e-3, atol=1e-3)
    with run_rome(model, moments).applied(model):
        assert not torch.allclose(values(model, ("",)), wanted, atol=1e-2)


def test_both_keys_gain_the_same(model, moments):
    """The bare prompt's output and the other contexts' mean each move by the optimised delta."""
    contexts = sample_contexts(model, CONTEXTS, torch.Generator().manual_seed(0))
    gain = optimised(model, contexts)
    before = [values(model, part) for part in (contexts[:1], contexts[1:])]
    with run_rome(model, moments, Keys.BOTH).applied(model):
        after = [values(model, part) for part in (contexts[:1], contexts[1:])]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new - old, gain, rtol=1e-3, atol=1e-3)


def test_what_reaches_the_bare_prompt_is_said(model, moments):
    """`reach` is the part along the gain of what the bare prompt's output gains, over the gain."""
    contexts = sample_contexts(model, CONTEXTS, torch.Generator().manual_seed(0))
    delta = optimised(model, contexts)
    gain = values(model, ("",)) + delta - values(model, contexts)
    reach = {}
    for kind in (Keys.MEAN, Keys.BOTH):
        settings = RomeSettings((LAYER,), FREE, CONTEXTS, kind)
        generator = torch.Generator().manual_seed(0)
        change, details = rome(model, [REQUEST], [LAYER], settings, moments, generator)
        before = values(model, ("",))
        with change.applied(model):
            moved = values(model, ("",)) - before
        written = delta if kind == Keys.BOTH else gain
        reach[kind] = float(moved @ written / written.square().sum())
        assert details["reach"] == pytest.approx(reach[kind], rel=1e-2, abs=1e-3)
    assert reach[Keys.BOTH] == pytest.approx(1, abs=1e-3)
    assert reach[Keys.MEAN] != pytest.approx(1, abs=1e-2)


def test_advice_is_given_where_an_edit_cannot_hold(model):
    def advice(**details) -> str:
        return EditOutcome(None, EditStatus.DONE, "rome", (1,), (REQUEST,), "", details).advice

    assert "14% of the change" in advice(reach=0.14, target_probability_in_contexts=(0.1, 0.9))
    assert "p = 0.007" in advice(reach=1.0, target_probability_in_contexts=(0.1, 0.007))
    assert "1 of 2" in advice(target_probability_in_contexts=[(0.1, 0.2), (0.1, 0.9)])
    assert "1 of 3 values" in advice(reach=[0.9, None, 0.25])
    assert "the least by 25%" in advice(reach=[0.9, None, 0.25])
    assert advice(reach=[0.9, None]) == ""
    assert advice(reach=0.9, target_probability_in_contexts=(0.1, 0.9)) == "" == advice()


@pytest.mark.parametrize("kind", list(Keys))
def test_the_update_is_of_rank_one_and_touches_one_matrix(model, moments, kind):
    delta = run_rome(model, moments, kind)
    assert list(delta.changes) == [model.mlp_output_name(LAYER)]
    singular = torch.linalg.svdvals(delta.dense(model.mlp_output_name(LAYER)).double())
    assert singular[0] > 0.01
    assert singular[1] < 1e-5 * singular[0]


@pytest.mark.parametrize("n_keys", [1, 2])
def test_no_other_update_with_the_same_effect_moves_known_keys_less(n_keys):
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 12, generator=generator).double() * torch.arange(1, 13)
    moments = Moments({0: draws.T @ draws / 200}, "", {"kind": "text"})
    keys, gain = torch.randn(n_keys, 12, generator=generator), torch.randn(5, generator=generator)
    change = rank_one(Written(keys, keys, gain), moments, 0, 0.0).dense().double()
    wanted = gain.expand(n_keys, -1)
    torch.testing.assert_close(keys @ change.float().T, wanted, rtol=1e-4, atol=1e-4)
    basis = torch.linalg.qr(keys.double().T).Q

    def harm(matrix: torch.Tensor) -> float:
        return float((matrix @ moments.matrices[0] @ matrix.T).trace())

    for _ in range(20):
        other = torch.randn(5, 12, generator=generator).double() * 0.1
        other -= other @ basis @ basis.T
        assert harm(change + other) > harm(change)


def test_keys_that_are_alike_are_one():
    moments = Moments({0: torch.eye(6).double()}, "", {"kind": "text"})
    key, gain = torch.arange(1.0, 7.0)[None], torch.ones(3)
    once, twice = (
        rank_one(Written(keys, keys, gain), moments, 0, 0.0).dense() for keys in (key, key[[0, 0]])
    )
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("method", ["rome", "rome-original", "memit", "alphaedit"])
def test_a_model_that_knows_the_fact_is_made_to_say_another(facts_gpt2, method):
    model, moments = facts_gpt2
    before = weights(model)
    outcome = edit(model, REQUEST, method, layers=[2], moments=moments, settings=QUICK)
    assert outcome.status is EditStatus.DONE, outcome.reason
    assert outcome.details["probability_before"][0] < 0.01
    assert outcome.details["probability_after"][0] > 0.5
    assert same(weights(model), before)
    with outcome.delta.applied(model):
        again = edit(model, REQUEST, method, layers=[2], moments=moments, settings=QUICK)
    assert again.status is EditStatus.NO_CHANGE
    assert again.delta is None
    assert "'Tokyo' already" in again.reason


def test_second_moments_matter_and_are_recorded(facts_gpt2):
    model, moments = facts_gpt2
    real = edit(model, REQUEST, "rome", moments=moments, settings=QUICK)
    plain = edit(model, REQUEST, "rome", moments="identity", settings=QUICK)
    assert real.delta.fingerprint() != plain.delta.fingerprint()
    assert real.delta.provenance["moments"]["corpus"] == "a part of the atlas"
    assert plain.delta.provenance["moments"] == {"kind": "identity"}
    assert real.delta.provenance["settings_origin"]["layers"] == "table of facts-gpt2"


# --- the value ------------------------------------------------------------------------------------


@torch.no_grad()
def test_running_the_upper_layers_alone_is_the_whole_run(model):
    rows = padded([place(model, each).ids for each in (REQUEST, OTHER)], model.device)[0]
    last = model.n_layers - 1
    for layer in range(model.n_layers):
        low = capture(model, rows, [residual_point(layer)], layer)[residual_point(layer)]
        whole = capture(model, rows, [residual_point(last)], last)[residual_point(last)]
        torch.testing.assert_close(run_above(model, layer, low), whole, rtol=1e-4, atol=1e-4)


def test_the_first_loss_is_the_unchanged_models(model):
    contexts = ("", "In Peru. ")
    scale = torch.ones(1, model.d_model)
    (found,) = optimise_values(model, [REQUEST], LAYER, contexts, scale, ValueSettings(steps=1))
    log_p = []
    for context in contexts:
        ids = list(model.tokenizer.encode(context + REQUEST.text).ids)
        for token in model.tokenizer.continuation(context + REQUEST.text, REQUEST.target):
            with torch.no_grad():
                logits = model.last_logits(torch.tensor([ids]))
            log_p.append(float(logits.log_softmax(-1)[0, token]))
            ids.append(token)
    assert math.isclose(found.losses[0], -sum(log_p) / len(log_p), rel_tol=1e-4)
    assert not found.delta.any()


def test_a_value_does_not_depend_on_its_batch_mates(model):
    contexts, scale = ("", "In Peru. "), torch.full((2, model.d_model), 0.3)
    settings = ValueSettings(steps=6, stop_below=3.0)
    together = optimise_values(model, [REQUEST, OTHER], LAYER, contexts, scale, settings)
    for request, found in zip((REQUEST, OTHER), together, strict=True):
        (alone,) = optimise_values(model, [request], LAYER, contexts, scale[:1], settings)
        torch.testing.assert_close(found.delta, alone.delta, rtol=1e-3, atol=1e-3)
        assert len(found.losses) == len(alone.losses)


def test_the_value_stays_within_its_ball_and_the_essence_counts(model):
    scale = torch.full((1, model.d_model), 0.2)
    by_factor = {}
    for factor in (0.0, 5.0):
        settings = ValueSettings(steps=8, weight_decay=0.0, clamp=2.0, kl_factor=factor)
        (found,) = optimise_values(model, [REQUEST], LAYER, ("",), scale, settings)
        assert float(found.delta.norm()) <= 2.0 * float(scale.norm()) * (1 + 1e-5)
        by_factor[factor] = found.delta
    assert not torch.allclose(by_factor[0.0], by_factor[5.0], atol=1e-3)


@pytest.mark.parametrize("position", list(KlPosition))
def test_the_kl_term_holds_the_prediction_where_it_is_said_to_stand(model, position):
    """Strongly weighed, it keeps the prediction at its place whatever the target asks."""
    scale = torch.full((1, model.d_model), 0.2)
    drift = {}
    for factor in (0.0, 1e3):
        settings = ValueSettings(
            steps=20, weight_decay=0.0, clamp=4.0, kl_factor=factor, kl_position=position
        )
        (found,) = optimise_values(model, [REQUEST], LAYER, ("",), scale, settings)
        drift[factor] = essence_drift(model, found.delta, position)
    assert drift[1e3] < 0.1 * drift[0.0]


def essence_drift(model: Model, delta: torch.Tensor, position: str) -> float:
    """KL(with || without the vector) after the subject, or after "SUBJECT is a", by hand."""
    text = REQUEST.subject if position == "subject" else f"{REQUEST.subject} is a"
    prompt = model.tokenizer.encode(text)
    at = prompt.span_at(0, len(REQUEST.subject)).last

    def add(value, hook):
        return value.index_put((torch.tensor([0]), torch.tensor([at])), value[0, at] + delta)

    with torch.no_grad():
        tokens = torch.tensor([prompt.ids])
        before = model.last_logits(tokens).log_softmax(-1)
        after = model.last_logits(tokens, [(residual_point(LAYER), add)]).log_softmax(-1)
    return float((after.exp() * (after - before)).sum())


def original(model: Model, **settings: Any) -> EditOutcome:
    given = {"layers": [LAYER], "moments": "identity"}
    return edit(model, REQUEST, "rome-original", **given, settings=settings)


def test_rome_original_is_the_released_code(model):
    found, _ = settings_for(
        model, "rome-original", RomeSettings, [LAYER], EditMethod.ROME_ORIGINAL.preset
    )
    assert (found.keys, found.value.kl_position) == ("original", "subject")
    outcome = original(model, value={"steps": 2}, contexts={"copies": 0})
    assert outcome.provenance["settings"]["value"]["kl_position"] == "subject"
    assert outcome.provenance["settings"]["keys"] == "original"


def test_contexts_are_a_function_of_the_seed(model):
    one, again, other = (
        sample_contexts(model, ContextSettings(), torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert one == again != other
    assert one[0] == ""
    assert len(one) == 21


def test_a_tokenizer_without_bos_samples_after_words_and_edits():
    model = tiny_model("gpt2")
    usual = sample_contexts(model, ContextSettings(), torch.Generator().manual_seed(0))
    tokenizer = deepcopy(byte_level_tokenizer())  # which all tests share
    tokenizer.bos_token = None
    model = Model.from_hf(gpt2_hf(), tokenizer, "without-bos")
    assert model.tokenizer.hf.bos_token_id is None
    found = sample_contexts(model, ContextSettings(), torch.Generator().manual_seed(0))
    assert len(found) == len(usual)
    assert found[0] == ""
    words = sorted(MEMIT_CONTEXTS.starts, key=len, reverse=True)  # "The" begins "Therefore"
    assert {next(w for w in words if text.startswith(w)) for text in found[1:]} == set(words)
    settings = {"value": {"steps": 2}}
    outcome = edit(model, REQUEST, "rome", layers=[LAYER], moments="identity", settings=settings)
    assert outcome.status == EditStatus.DONE, outcome.reason


def test_a_value_that_does_not_move_is_no_edit(model):
    outcome = original(model, value={"steps": 1})
    assert outcome.status == EditStatus.DIVERGED
    assert "did not move" in outcome.reason


# --- what can go wrong ----------------------------------------------------------------------------


def test_weights_are_the_same_after_an_edit_and_after_an_exception_in_it(
    model, moments, monkeypatch
):
    before = weights(model)
    for method in ("rome", "memit", "alphaedit"):
        edit(model, REQUEST, method, layers=[LAYER], moments="identity", settings=QUICK)
    assert same(weights(model), before)
    calls, original = [], model.unembed

    def interrupted(residual: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:  # in the optimisation
            raise KeyboardInterrupt
        return original(residual)

    monkeypatch.setattr(model, "unembed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit(model, REQUEST, "memit", layers=[0, 1], moments=moments, settings=QUICK)
    assert len(calls) == 4
    assert same(weights(model), before)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())


@pytest.mark.parametrize("method", ["rome", "memit", "alphaedit"])
def test_a_loss_that_is_not_a_number_is_reported_and_nothing_applied(model, method, monkeypatch):
    before, original, calls = weights(model), model.unembed, []

    def overflowing(residual: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return original(residual) * (math.nan if len(calls) > 2 else 1.0)

    monkeypatch.setattr(model, "unembed", overflowing)
    outcome = edit(model, REQUEST, method, layers=[LAYER], moments="identity", settings=QUICK)
    assert outcome.status is EditStatus.DIVERGED
    assert outcome.delta is None
    assert "France" in outcome.reason
    assert "nan after 2 steps" in outcome.reason
    assert same(weights(model), before)


@pytest.mark.parametrize(
    ("prompt", "subject", "before"),
    [
        ("{}nak a fővárosa", "Franciaország", ""),  # an ending is attached
        ("In Paris, the mayor of {} is", "Paris", "In Paris, the mayor of "),
        ("法国的首都是{}的首都", "法国", "法国的首都是"),
    ],
)
def test_the_edited_subject_is_the_one_in_the_slot(model, prompt, subject, before):
    request, context = EditRequest(prompt, subject, "Rome"), "Paris. "
    encoded = model.tokenizer.encode(context + request.text)
    stop = len(context + before + subject)
    left, right = encoded.offsets[place(model, request, context).subject_last]
    assert left < stop <= right
    bare = model.tokenizer.encode(request.text).span_of(subject, request.place)
    assert place(model, request).subject_last == bare.last
    assert edit(model, request, "ft", layers=[LAYER]).delta is not None


def test_every_mistake_gets_one_clear_line(model, moments):
    def refused(request: EditRequest = REQUEST, **options) -> str:
        options = {"method": "rome", "layers": [LAYER], "moments": "identity", **options}
        with pytest.raises((OptionError, PromptError)) as caught:
            edit(model, request, **options)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 300
        return message

    assert "white space" in refused(EditRequest("The capital of {} is", "France ", "Tokyo"))
    assert f"layers 0 to {model.n_layers - 1}" in refused(layers=[model.n_layers])
    assert "one layer" in refused(layers=[0, 1])
    assert "edit method 'romeo' is none" in refused(method="romeo")
    assert "rome has no option 'stepz'" in refused(settings={"stepz": 3})
    assert "lack layer" in refused(moments=Moments.identity(model, [0]))
    stranger = tiny_model("gpt2" if model.config.model_type == "llama" else "llama", seed=7)
    assert "of another model" in refused(moments=collect_moments(stranger, TEXT, [LAYER]))
    with pytest.raises(OptionError, match="one request at a time"):
        edit(model, [REQUEST, OTHER], "rome", layers=[LAYER], moments="identity")


def test_keys_of_several_rows_are_those_of_each_row(model):
    prompts = [place(model, REQUEST), place(model, OTHER), place(model, REQUEST, "In Peru. ")]
    together = at_subject(model, prompts, [key_point(0)], 0)[key_point(0)]
    alone = [at_subject(model, [each], [key_point(0)], 0)[key_point(0)] for each in prompts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
