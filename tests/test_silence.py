"""Silencing sets of heads, induction scores and attention to spans, on tiny models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.heads.attention import read_heads
from locate.heads.induction import even_score, induction_scores, repeated_tokens
from locate.heads.readings import REGIONS, Region
from locate.heads.role_checks import ablate_heads
from locate.heads.silence import without_heads
from locate.heads.span_attention import attention_to_spans


@pytest.fixture
def prompts(pairs: list[TokenPair]) -> list[Prompt]:
    return [pair.clean for pair in pairs]


def plain(model: Model, prompts: list[Prompt], answers: list[int]) -> np.ndarray:
    rows = [model.last_logits(torch.tensor([p.ids])).float().softmax(-1) for p in prompts]
    return torch.cat(rows).detach().numpy()[range(len(answers)), answers]


def test_silencing_no_head_leaves_the_model_as_it_is(
    model: Model, pairs: list[TokenPair], prompts: list[Prompt]
) -> None:
    zero = source_constants(model, pairs, Ablation.ZERO)
    answers = [pair.answer for pair in pairs]
    replies = without_heads(model, prompts, [[], []], answers, zero)
    expected = plain(model, prompts, answers)
    np.testing.assert_allclose(replies.probability, np.stack([expected] * 2), rtol=1e-4)


def test_silencing_by_zero_is_removing_the_heads_output_weights(
    model: Model, pairs: list[TokenPair], prompts: list[Prompt]
) -> None:
    heads = [(0, 1), (2, 3), (2, 0)]
    answers = [pair.answer for pair in pairs]
    zero = source_constants(model, pairs, Ablation.ZERO)
    replies = without_heads(model, prompts, [heads], answers, zero)
    before = {}
    for layer, head in heads:  # the other route: the weights themselves
        weight = model.head_output_weights(layer)
        before.setdefault(layer, weight.clone())
        weight[head] = 0.0
    try:
        expected = plain(model, prompts, answers)
    finally:
        for layer, weight in before.items():
            model.head_output_weights(layer).copy_(weight)
    np.testing.assert_allclose(replies.probability[0], expected, rtol=1e-3)


def test_in_the_last_layer_the_last_token_alone_decides(
    model: Model, pairs: list[TokenPair], prompts: list[Prompt]
) -> None:
    head = (model.n_layers - 1, 2)
    answers = [pair.answer for pair in pairs]
    zero = source_constants(model, pairs, Ablation.ZERO)
    replies = without_heads(model, prompts, [[], [head]], answers, zero)
    checked = ablate_heads(model, pairs, [head])[:, 0, 2]  # change of the answer's probability
    np.testing.assert_allclose(
        replies.probability[1] - replies.probability[0], checked, rtol=1e-2, atol=1e-5
    )


def test_a_head_that_does_not_exist_is_refused(model: Model, pairs: list[TokenPair]) -> None:
    zero = source_constants(model, pairs, Ablation.ZERO)
    with pytest.raises(OptionError, match=r"no head a9\.h0"):
        without_heads(model, [pairs[0].clean], [[(9, 0)]], [1], zero)


# --- induction -----------------------------------------------------------------------------------


def test_the_sequence_comes_twice_and_holds_no_special_token(model: Model) -> None:
    rows = repeated_tokens(model, 7, 3, 0)[:, -14:]
    assert bool((rows[:, :7] == rows[:, 7:]).all())
    special = set(model.tokenizer.hf.all_special_ids)
    assert not special & set(rows.flatten().tolist())
    assert all(len(set(row.tolist())) == 7 for row in rows[:, :7])


def test_a_model_that_attends_evenly_has_the_even_score(model: Model) -> None:
    before = {}
    for layer in range(model.n_layers):  # no queries: all keys look alike
        for name in model.parameter_names:
            if f".{layer}." in name and ("c_attn" in name or "q_proj" in name):
                before[name] = model.parameter(name).clone()
                changed = before[name].clone()
                if "q_proj" in name:
                    changed.zero_()
                else:
                    changed[..., : model.d_model] = 0.0
                model.set_parameter(name, changed)
    try:
        scores = induction_scores(model, length=8)
    finally:
        for name, value in before.items():
            model.set_parameter(name, value)
    np.testing.assert_allclose(scores, even_score(model, 8), rtol=1e-4)
    assert not np.allclose(induction_scores(model, length=8), even_score(model, 8))


def test_scores_are_shares(model: Model) -> None:
    scores = induction_scores(model, length=10, sequences=3)
    assert scores.shape == (model.n_layers, model.n_heads)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_sequence_longer_than_the_model_is_refused(model: Model) -> None:
    with pytest.raises(OptionError, match="too long"):
        induction_scores(model, length=60)


# --- attention to spans --------------------------------------------------------------------------


def test_attention_to_the_subject_is_that_of_the_heads_readings(
    model: Model, pairs: list[TokenPair], prompts: list[Prompt]
) -> None:
    spans = []
    for pair in pairs:
        assert pair.subject is not None
        inside = range(pair.subject.start, pair.subject.stop)
        everywhere = range(len(pair.clean))
        spans.append({"subject": list(inside), "everything": list(everywhere), "nothing": []})
    shares = attention_to_spans(model, prompts, spans)
    read = read_heads(model, pairs).weighted[..., REGIONS.index(Region.SUBJECT)]
    np.testing.assert_allclose(shares["subject"], read, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(shares["everything"], 1.0, rtol=1e-4)
    assert not shares["nothing"].any()


def test_prompts_without_spans_are_refused(model: Model, prompts: list[Prompt]) -> None:
    with pytest.raises(OptionError, match="spans"):
        attention_to_spans(model, prompts, [])
