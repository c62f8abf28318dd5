"""Interchange interventions: the base's run with parts of the source's, by two independent ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import knowledge_circuits as kc
from circuits.base.errors import OptionError, PromptError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from locate.ask import without
from locate.interchange import interchange, said_pairs
from locate.looks.says import says
from locate.states.steering import patched
from tests.oracles import plain_circuit_run
from tests.tiny import equal_length_pairs


def logits(model: Model, prompt: str) -> np.ndarray:
    with torch.no_grad():
        ids = torch.tensor([model.tokenizer.encode(prompt).ids])
        return model.last_logits(ids)[0].numpy()


@pytest.mark.parametrize("parts", [["a1.h2"], ["m0", "a0.h1", "a2.h3"], ["m1", "m2"]], ids=str)
def test_exchanged_nodes_are_the_model_patched_with_the_source(
    model: Model, pairs: list[TokenPair], parts: list[str]
):
    found = interchange(model, pairs, parts)
    for row, pair in enumerate(pairs):
        with patched(model, parts, source=pair.text.corrupted):
            expected = logits(model, pair.text.clean)
        np.testing.assert_allclose(found.logits[row], expected, atol=3e-4)
        gap = expected[pair.answer] - expected[pair.foil]
        assert found.changed[row] == pytest.approx(gap, abs=5e-4)
        assert found.rows()[row]["effect"] == pytest.approx(gap - found.base[row], abs=5e-4)
    assert found.effect.value == pytest.approx((found.changed - found.base).mean())


def test_exchanged_edges_are_a_plain_run_without_them(model: Model, pairs: list[TokenPair]):
    edges = ["a0.h1->m1", "m0->a2.h3<q>", "a1.h0->logits"]
    found = interchange(model, pairs, edges)
    for batch in batches(pairs, 4, model):
        plain = plain_circuit_run(model, batch, without(model, [], edges))
        np.testing.assert_allclose(found.logits[list(batch.index)], plain, atol=3e-4)


def test_all_nodes_bring_the_source_and_a_node_that_does_nothing_new_brings_nothing(model: Model):
    pairs = equal_length_pairs(model)
    everything = [name for name in model.wiring().src_names if name != "input"]
    found = interchange(model, pairs, everything)
    for row, pair in enumerate(pairs):
        np.testing.assert_allclose(found.logits[row], logits(model, pair.text.corrupted), atol=3e-4)
    assert found.moved.value == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(found.flips[2], found.flips[1])
    only = found.flips[1] & ~found.flips[0]
    assert found.flipped.value == 1 if only.any() else np.isnan(found.flipped.value)
    np.testing.assert_allclose(found.base, [
        (row := logits(model, pair.text.clean))[pair.answer] - row[pair.foil] for pair in pairs
    ], atol=5e-4)  # fmt: skip
    with patched(model, "m1", to=0.3):  # what is the same for both prompts exchanges nothing
        assert interchange(model, pairs, ["m1"]).effect.value == pytest.approx(0, abs=1e-4)


def test_intervals_are_over_facts_and_few_have_none(model: Model, pairs: list[TokenPair]):
    few = interchange(model, [*pairs[:2]] * 4, ["m0"])
    assert np.isnan(few.effect.low)
    assert len(few.pairs) == 8  # as many as facts would have to be
    assert says(few).endswith("; 2 facts are too few for an interval.")
    assert says(interchange(model, pairs[:2], ["m0"])).endswith("; too few for an interval.")
    others = [
        replace(pair, text=replace(pair.text, relation=str(n))) for n in range(4) for pair in pairs
    ]
    many = interchange(model, others, ["m0"], resamples=200)
    assert many.effect.low < many.effect.value < many.effect.high
    assert "too few" not in says(many)
    assert "effect" in str(many)
    assert len(many.to_pandas()) == 4 * len(pairs)


def test_plain_prompts_are_asked_what_the_model_says_to_each():
    trained = kc.load("facts-gpt2", device="cpu")
    base = ["The capital of France is", "The capital of Italy is"]
    source = ["The capital of Japan is", "The language of Italy is"]
    found = said_pairs(trained, base, source)
    assert [(pair.text.answer, pair.text.foil) for pair in found] == [
        ("Paris", "Tokyo"),
        ("Rome", "Italian"),
    ]
    by_door = kc.interchange(trained, base, source, ["m2", "a6.h1"])
    pairs = interchange(trained, found, ["m2", "a6.h1"])
    np.testing.assert_allclose(by_door.logits, pairs.logits, atol=1e-4)
    assert (by_door.base > 0).all()
    assert (by_door.source < 0).all()
    with pytest.raises(PromptError, match="both answered with ' Paris'"):
        said_pairs(trained, base[:1], ["The capital of France was"])


def test_what_cannot_be_exchanged_is_refused(model: Model, pairs: list[TokenPair]):
    for parts, why in (([], "at least one"), (["a9.h9"], "no head or MLP"), (["resid1"], "resid1")):
        with pytest.raises(OptionError, match=why):
            interchange(model, pairs, parts)
    with pytest.raises(OptionError):
        interchange(model, pairs, ["m2->m0"])
    with pytest.raises(OptionError, match="no prompt pairs"):
        interchange(model, [], ["m0"])
    prompt = pairs[0].text.clean
    for base, source, why in (
        (prompt, prompt + " so", "as many"),
        (prompt, prompt, "the same"),
    ):
        with pytest.raises(PromptError, match=why):
            kc.interchange(model, base, source, "m0")
    with pytest.raises(OptionError, match="as many sources"):
        kc.interchange(model, [prompt, prompt], [prompt], "m0")
    with pytest.raises(OptionError, match="n_pairs"):
        kc.interchange(model, prompt, prompt + " so", "m0", n_pairs=3)
