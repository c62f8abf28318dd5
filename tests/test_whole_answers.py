"""Answers of several tokens as a whole: each token after those before it, added up to the pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import knowledge_circuits as kc
from circuits.base.choices import Ablation, Metric, Selection
from circuits.base.errors import OptionError, PromptError
from circuits.facts.pairs import PromptPair, TokenPair, encode_pairs, read_token
from circuits.facts.whole_answers import Parts
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model
from locate.discover import discover
from locate.edges.locators import Locator
from locate.edges.score import score_edges
from locate.examples import Examples
from locate.interchange import interchange
from locate.neurons.options import NeuronSearch
from locate.search import Scoring, Search
from locate.states.patching import patch_pairs
from tests.tiny import tiny_model

WHOLE = Metric.ANSWER_LOG_PROBABILITY
ANSWERS = {"Peru": "Lima is the capital", "Cuba": "Havana of", "Norway": "Oslo"}
FRAMES = ("The capital of {} is", "In {} the capital is")


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


def text_pairs() -> list[PromptPair]:
    names = list(ANSWERS)
    return [
        PromptPair(
            frame.format(one), frame.format(other), ANSWERS[one], ANSWERS[other], subject=one
        )
        for frame in FRAMES
        for one, other in (names[:2], names[1::-1], (names[2], names[0]))
    ]


@pytest.fixture
def pairs(model: Model) -> list[TokenPair]:
    found = []
    for pair in text_pairs():
        try:
            found += encode_pairs(model.tokenizer, [pair])
        except PromptError:  # unlike lengths in this tokenizer
            continue
    assert len(found) >= 3
    assert len({len(tokens(model, pair)) for pair in found}) > 1
    return found


def tokens(model: Model, pair: TokenPair) -> tuple[int, ...]:
    return model.tokenizer.continuation(pair.text.clean, pair.text.answer)


def whole(model: Model, ids: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """log p of the answer, read from one run of all of it."""
    bare = model.to_hf()
    with torch.no_grad():
        logits = bare(torch.tensor([[*ids, *answer]])).logits[0].float().log_softmax(-1)
    return float(sum(logits[len(ids) - 1 + n, token] for n, token in enumerate(answer)))


def test_the_model_s_and_the_empty_circuit_s_value_are_the_answer_s_log_likelihood(model, pairs):
    """Of the empty circuit: after the corrupted prompt, which the same answer follows."""
    runs = run_circuits(model, pairs, [], metric=WHOLE, batch_size=2)
    for row, pair in enumerate(pairs):
        answer = tokens(model, pair)
        clean, corrupted = (
            model.tokenizer.encode(each).ids for each in (pair.text.clean, pair.text.corrupted)
        )
        assert runs.model.metric[row] == pytest.approx(whole(model, clean, answer), rel=1e-4)
        assert runs.empty.metric[row] == pytest.approx(whole(model, corrupted, answer), rel=1e-4)
    assert len(runs.model.metric) == len(pairs)


def test_a_hit_is_one_of_every_token(model, pairs):
    parts = Parts.of(model.tokenizer, pairs, WHOLE)
    each = run_circuits(model, parts.pairs, [], metric="log-prob", k=150)
    found = run_circuits(model, pairs, [], metric=WHOLE, k=150)
    for row, start in enumerate(parts.first):
        stop = start + len(tokens(model, pairs[row]))
        assert found.model.hit[row] == each.model.hit[start:stop].all()
        assert found.model.metric[row] == pytest.approx(each.model.metric[start:stop].sum())


@pytest.mark.parametrize("ablation", list(Ablation))
@pytest.mark.slow
def test_exact_scores_are_what_a_circuit_loses_without_the_edge(model, pairs, ablation):
    scoring = Scoring(method=Locator.EXACT, metric=WHOLE, ablation=ablation)
    found = score_edges(model, pairs, scoring, keep_pairs=True)
    assert isinstance(found, EdgeScores)
    assert found.per_pair is not None
    np.testing.assert_allclose(found.per_pair.mean(0), found.values, rtol=1e-3, atol=1e-5)
    edges = np.argsort(-np.abs(found.values))[:4]
    without = []
    for edge in edges:
        kept = np.ones(found.wiring.n_edges, bool)
        kept[edge] = False
        without.append(Circuit(found.wiring, kept))
    runs = run_circuits(model, pairs, without, metric=WHOLE, ablation=ablation)
    for edge, outcome in zip(edges, runs.circuits, strict=True):
        lost = runs.model.metric - outcome.metric
        np.testing.assert_allclose(found.per_pair[:, edge], lost, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["eap-ig", "gim", "atp-star"])
@pytest.mark.slow
def test_scores_are_the_sums_of_the_parts(model, pairs, method):
    found = score_edges(model, pairs, Scoring(method=Locator.of(method), metric=WHOLE))
    parts = Parts.of(model.tokenizer, pairs, WHOLE)
    of_parts = Scoring(method=Locator.of(method), metric=Metric.LOG_PROBABILITY)
    each = score_edges(model, parts.pairs, of_parts)
    assert isinstance(found, EdgeScores)
    assert isinstance(each, EdgeScores)
    assert found.provenance["metric"] == "answer-log-prob"
    np.testing.assert_allclose(
        found.values, each.values * len(parts) / len(pairs), rtol=1e-4, atol=1e-6
    )


def test_scores_are_of_pairs_and_the_page_says_that_all_tokens_count(model, pairs):
    asked = Search(
        method=Locator.EAP, metric=WHOLE, edges=100, resamples=0, n_random=0, batch_size=2
    )
    counts = {"lines": len(pairs), "known": len(pairs)}
    asked_of = Examples("x", tuple(pairs), counts=counts)
    found = discover(model, asked_of, asked)
    assert len(Parts.of(model.tokenizer, pairs, WHOLE)) > len(pairs)
    assert found.scores.provenance["pairs"] == found.circuit.provenance["pairs"] == len(pairs)
    assert found.circuit.provenance["answer"] == "all tokens of the continuation"
    plain = discover(model, asked_of, replace(asked, metric=Metric.LOG_PROBABILITY))
    assert "Answers count by all their tokens." in found.page()
    assert "Answers count by their first token." in plain.page()


@pytest.mark.parametrize("asked", [{}, {"of": ("eap", "edge-pruning")}])
def test_masks_whose_loss_is_no_sum_over_tokens_refuse_whole_answers(asked):
    method = Locator.ENSEMBLE if asked else Locator.EDGE_PRUNING
    with pytest.raises(OptionError, match="edge-pruning reads one token an answer"):
        Scoring(method=method, metric=WHOLE, options=asked or None)


def test_acdc_s_threshold_is_in_units_of_the_whole_answer(model, pairs):
    all_cost = run_circuits(model, pairs, [], metric=WHOLE)
    span = float(np.abs(all_cost.model.metric.mean() - all_cost.empty.metric.mean()))
    asked = Search(
        method=Locator.ACDC,
        metric=WHOLE,
        selection=Selection.THRESHOLD,
        threshold=1.1 * span,
    )
    none = score_edges(model, pairs, asked)
    assert isinstance(none, Circuit)
    assert none.n_edges == 0


def test_answers_of_one_token_are_as_with_the_plain_metric(model, pairs):
    ids = [model.tokenizer.continuation("The capital of", each)[-1] for each in ("Peru", "Cuba")]
    answer, foil = (read_token(model.tokenizer, token) for token in ids)
    named = [replace(pair.text, answer=answer, foil=foil, tokens=tuple(ids)) for pair in pairs]
    short = encode_pairs(model.tokenizer, named)
    assert len(Parts.of(model.tokenizer, short, WHOLE)) == len(short)
    one, other = (run_circuits(model, short, [], metric=m) for m in (WHOLE, "log-prob"))
    np.testing.assert_allclose(one.model.metric, other.model.metric, rtol=1e-5)


def test_what_answer_and_foil_begin_with_counts_too(model):
    """The pair's prompts end with it, and the answer's likelihood holds it all the same."""
    text = PromptPair("The capital of Peru is", "The capital of Cuba is", "Lima is", "Lima of")
    (pair,) = encode_pairs(model.tokenizer, [text])
    answer = tokens(model, pair)
    assert len(pair.clean) > len(model.tokenizer.encode(text.clean))
    runs = run_circuits(model, [pair], [], metric=WHOLE)
    clean = model.tokenizer.encode(text.clean).ids
    assert runs.model.metric[0] == pytest.approx(whole(model, clean, answer), rel=1e-4)


def test_a_metric_of_one_s_own_may_be_of_whole_answers(model, pairs):
    def surprise(logits: torch.Tensor, answer: torch.Tensor, foil: torch.Tensor) -> torch.Tensor:
        """Twice the log-probability of a token."""
        return 2 * logits.log_softmax(-1).gather(-1, answer[:, None])[:, 0]

    try:
        kc.metric(surprise, whole=True)
        own, built_in = (run_circuits(model, pairs, [], metric=m) for m in ("surprise", WHOLE))
    finally:
        Metric._known.pop("surprise", None)
    np.testing.assert_allclose(own.model.metric, 2 * built_in.model.metric, rtol=1e-5)
    np.testing.assert_allclose(own.empty.metric, 2 * built_in.empty.metric, rtol=1e-5)


def test_what_cannot_be_asked_is_refused(model, pairs):
    sets = replace(text_pairs()[0], answers=("Lima", "Callao"), answer="Lima")
    (with_sets,) = encode_pairs(model.tokenizer, [sets])
    with pytest.raises(PromptError, match="a set of answers"):
        run_circuits(model, [with_sets], [], metric=WHOLE)
    with pytest.raises(OptionError, match="patching reads one token an answer"):
        patch_pairs(model, pairs, metric=WHOLE)
    with pytest.raises(OptionError, match="an interchange reads one token"):
        interchange(model, pairs, ["m0"], metric=WHOLE)
    with pytest.raises(OptionError, match="the scoring of neurons reads one token"):
        NeuronSearch(metric=WHOLE)
