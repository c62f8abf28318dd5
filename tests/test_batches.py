"""Prompts of several lengths in one batch: what each is asked does not depend on the others."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.facts.batches import PASS, batches, groups_for, mixed_groups, padded
from circuits.facts.facts import Fact, Relation
from circuits.facts.knowledge import known_facts
from circuits.facts.pairs import PromptPair, TokenPair, encode_pairs
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.select import random_circuit
from circuits.model import taps
from circuits.model.model import Model
from locate.edges.locators import Locator
from locate.edges.score import score_edges
from locate.examples import recalled
from locate.heads.attention import read_heads
from locate.heads.role_checks import ablate_heads
from locate.search import Search
from locate.states.steering import patched
from tests.families import ANSWERS, FAMILIES, family_model
from tests.test_pairs import MANY

FRAMES = ("The capital of {} is", "{} capital city is", "In The city of {} The capital city is")
# Norms of Hugging Face compute in single precision, whatever the model's own.
SINGLE = {"rtol": 1e-3, "atol": 2e-5}

shared_model = cache(family_model)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    """Shared; no test may leave it changed."""
    return shared_model(request.param)


def several_lengths(model: Model) -> list[TokenPair]:
    subject, other = list(ANSWERS)[:2]
    pairs = [
        PromptPair(frame.format(one), frame.format(two), ANSWERS[one], ANSWERS[two], one, "capital")
        for frame in FRAMES
        for one, two in ((subject, other), (other, subject))
    ]
    return encode_pairs(model.tokenizer, pairs)


def groupings(places: list[int], most: int) -> Any:
    """Every way to part a sequence into runs of at most so many."""
    if not places:
        yield []
    for n in range(1, min(most, len(places)) + 1):
        for rest in groupings(places[n:], most):
            yield [places[:n], *rest]


@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 59)).map(
            lambda x: (x[0], min(x[1], x[0] - 1))
        ),
        min_size=1,
        max_size=8,
    ),
    size=st.integers(1, 8),
)
def test_lengths_are_mixed_where_that_costs_least(prompts, size) -> None:
    lengths, shared = zip(*prompts, strict=True)

    def cost(groups: list[list[int]]) -> int:
        run = [
            len(rows) * (max(lengths[i] for i in rows) - min(shared[i] for i in rows))
            for rows in groups
        ]
        return PASS * len(groups) + sum(run)

    found = mixed_groups(lengths, shared, size)
    order = [place for rows in found for place in rows]
    assert sorted(order) == list(range(len(lengths)))
    assert all(lengths[a] <= lengths[b] for a, b in pairwise(order))
    assert max(map(len, found)) <= size
    assert cost(found) == min(map(cost, groupings(order, size)))


@given(order=st.randoms(use_true_random=False), size=st.integers(1, 12))
def test_a_mixed_batch_holds_each_prompt_up_to_its_end(order, size) -> None:
    pairs, seen = list(MANY["gpt2"]), list[int]()
    order.shuffle(pairs)
    for batch in batches(pairs, size, mixed=True):
        ends = [batch.clean.shape[1] - 1] * len(batch)
        if batch.ends is not None:
            ends = batch.ends.tolist()
            assert batch.ends_from(1).tolist() == [end - 1 for end in ends]
        for row, (place, end) in enumerate(zip(batch.index, ends, strict=True)):
            pair = pairs[place]
            assert tuple(batch.clean[row, : end + 1].tolist()) == pair.clean.ids
            assert tuple(batch.corrupted[row, : end + 1].tolist()) == pair.corrupted.ids
            assert set(batch.clean[row, end:].tolist()) == {pair.clean.ids[-1]}
            assert batch.first_difference <= pair.first_difference
        assert len(batch) <= size
        seen += batch.index
    assert sorted(seen) == list(range(len(pairs)))


def test_a_batch_of_one_length_has_no_ends_of_its_own() -> None:
    for batch in batches(MANY["gpt2"], 4):
        assert batch.ends is None
        assert batch.ends_from(2) is None
    tokens, ends = padded([[1, 2], [3]], "cpu")
    assert (tokens.tolist(), ends.tolist()) == ([[1, 2], [3, 3]], [1, 0])
    assert padded([[1, 2], [3, 4]], "cpu")[1] is None
    for size in (0, -3):
        with pytest.raises(OptionError, match=f"at least 1, not {size}"):
            list(batches(MANY["gpt2"], size, mixed=True))
        with pytest.raises(OptionError, match=f"at least 1, not {size}"):
            groups_for([3, 4], [0, 0], size, None)


def test_logits_are_those_after_each_rows_own_last_token(model) -> None:
    pairs = several_lengths(model)
    rows = [pair.clean.ids for pair in pairs]
    tokens, ends = padded(rows, "cpu")
    assert ends.tolist() == [len(row) - 1 for row in rows]
    found = model.last_logits(tokens, ends=ends)
    for row, logits in zip(rows, found, strict=True):
        torch.testing.assert_close(logits, model.last_logits(torch.tensor([row]))[0], **SINGLE)
    assert not torch.allclose(model.last_logits(tokens)[0], found[0], rtol=1e-2)


@pytest.mark.slow
def test_scores_and_circuits_do_not_depend_on_batch_mates_of_other_lengths(model) -> None:
    hold_alone_and_together(model, Ablation.PATCH, None)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", [Ablation.PATCH, Ablation.MEAN])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "opt", "olmo3", "mixtral"])
def test_nor_do_those_of_spans_and_of_constants(kind, ablation) -> None:
    hold_alone_and_together(shared_model(kind), ablation, "auto")


def hold_alone_and_together(model: Model, ablation: Ablation, spans: str | None) -> None:
    """Scores and runs of circuits with a batch a pair, and with one batch."""
    pairs = several_lengths(model)
    (batch,) = batches(pairs, 8, model, mixed=True)
    assert batch.ends is not None, "one batch of several lengths is needed here"
    search = Search(ablation=ablation, spans=spans)
    alone, together = (
        score_edges(model, pairs, search, batch_size=size, keep_pairs=True) for size in (1, 8)
    )
    scale = np.abs(alone.per_pair).max()
    np.testing.assert_allclose(
        together.per_pair / scale, alone.per_pair / scale, rtol=1e-3, atol=1e-5
    )
    draw = np.random.default_rng(0)
    n = alone.wiring.n_edges // 4
    circuits = [random_circuit(alone.wiring, n, draw) for _ in range(3)]
    one, all_ = (
        run_circuits(model, pairs, circuits, ablation=ablation, batch_size=size) for size in (1, 8)
    )
    for a, b in zip(
        (one.model, one.empty, *one.circuits), (all_.model, all_.empty, *all_.circuits), strict=True
    ):
        np.testing.assert_allclose(b.metric, a.metric, rtol=1e-3, atol=1e-4)
    assert np.ptp([run.metric for run in one.circuits]) > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "falcon", "olmo3"])
def test_nor_does_what_heads_do_at_the_last_token(kind) -> None:
    model = shared_model(kind)
    pairs = several_lengths(model)
    one, all_ = (read_heads(model, pairs, batch_size=size) for size in (1, 8))
    for name in ("attention", "weighted", "answer_gain", "range_gain"):
        alone, together = getattr(one, name), getattr(all_, name)
        scale = np.abs(alone).max()
        assert scale > 0
        np.testing.assert_allclose(together / scale, alone / scale, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["eap", "eap-gp", "relp", "gim"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_locators_scores_depend_on_batch_mates_of_other_lengths(kind, method) -> None:
    model = shared_model(kind)
    pairs = several_lengths(model)
    alone, together = (
        score_edges(
            model, pairs, Search(method=Locator.of(method)), batch_size=size, keep_pairs=True
        )
        for size in (1, 8)
    )
    scale = np.abs(alone.per_pair).max()
    np.testing.assert_allclose(
        together.per_pair / scale, alone.per_pair / scale, rtol=1e-3, atol=1e-4
    )


def test_what_is_known_does_not_depend_on_batch_mates_of_other_lengths(model) -> None:
    facts = tuple(Fact("capital", subject, word) for subject, word in ANSWERS.items())
    relation = Relation("capital", "geography", "country", facts, FRAMES)
    for shots in (0, 1):
        one, many = (
            known_facts(model, relation, FRAMES, batch_size=size, shots=shots) for size in (1, 64)
        )
        assert [each.question for each in one.answers] == [each.question for each in many.answers]
        assert [each.rank for each in one.answers] == [each.rank for each in many.answers]
        shares = ([each.probability for each in check.answers] for check in (one, many))
        np.testing.assert_allclose(*shares, rtol=1e-3)
    pairs = several_lengths(model)
    assert recalled(model, pairs, 1, "top3") == recalled(model, pairs, 64, "top3")


@pytest.mark.slow
def test_a_silenced_heads_effect_does_not_depend_on_batch_mates_of_other_lengths(
    model,
) -> None:
    pairs = several_lengths(model)
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    one, many = (ablate_heads(model, pairs, heads, batch_size=size) for size in (1, 8))
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(many, one, rtol=1e-3, atol=1e-4)


def test_how_a_wording_begins_is_run_once_where_that_is_less_work(model, monkeypatch) -> None:
    long = "The capital of " * 9 + "{} is"
    facts = tuple(Fact("capital", subject, word) for subject, word in ANSWERS.items())
    relation = Relation("capital", "geography", "country", facts, (FRAMES[0], long))
    begun = list[int]()
    shared = model.share_prefix

    def share(tokens: torch.Tensor) -> Any:
        begun.append(tokens.shape[1])
        return shared(tokens)

    monkeypatch.setattr(model, "share_prefix", share)
    answers = known_facts(model, relation, (FRAMES[0], long)).answers
    n_beginning = len(model.tokenizer.encode(long.partition("{")[0].strip()))
    assert begun[:2] == [n_beginning, 0]
    for answer in answers:
        ids = model.tokenizer.encode(answer.question.prompt).ids
        logits = model.last_logits(torch.tensor([ids]))[0].float()
        own = model.tokenizer.first_token(answer.question.prompt, answer.question.fact.object)
        assert answer.rank == int((logits > logits[own]).sum())
        np.testing.assert_allclose(answer.probability, float(logits.softmax(0)[own]), rtol=1e-3)


def test_what_hooks_do_at_the_last_position_does_not_depend_on_batch_mates(monkeypatch) -> None:
    model = shared_model("gpt2")
    pairs = several_lengths(model)
    facts = tuple(Fact("capital", subject, word) for subject, word in ANSWERS.items())
    relation = Relation("capital", "geography", "country", facts, FRAMES)

    def add(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([value[:, :-1], value[:, -1:].flip(-1)], 1)

    plain = [each.probability for each in known_facts(model, relation, FRAMES).answers]
    with model.hooks([(taps.resid_post(0), add)]):
        one, many = (
            [each.probability for each in known_facts(model, relation, FRAMES, None, n).answers]
            for n in (1, 64)
        )
        assert all(batch.ends is None for batch in batches(pairs, 8, model, mixed=True))
    assert not np.allclose(one, plain, rtol=1e-2)
    np.testing.assert_allclose(many, one, rtol=1e-4)
    assert any(batch.ends is not None for batch in batches(pairs, 8, model, mixed=True))


def test_a_patched_model_takes_prompts_of_one_length(monkeypatch) -> None:
    """Patches are of positions, which padding has too."""
    model = family_model("gpt2")
    pairs = several_lengths(model)
    lengths = list[set[int]]()
    asked = model.last_logits

    def look(tokens: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        assert named.get("ends") is None
        lengths.append({tokens.shape[1]})
        return asked(tokens, *given, **named)

    with patched(model, "m1", to=torch.ones(model.d_model), at=-1):
        monkeypatch.setattr(model, "last_logits", look)
        recalled(model, pairs, 64)
        run_circuits(model, pairs, [Circuit.full(model.wiring())], batch_size=64)
    assert len(lengths) > 2
