"""Edge Pruning: it finds circuits that are known, and its numbers by other ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from circuits.base.errors import NumericalError, OptionError
from circuits.base.options import build
from circuits.graph.evaluate import run_circuits
from circuits.graph.scores import EdgeScores
from circuits.graph.select import select
from circuits.model.model import Model
from experiments.planted.bench import auroc, average_precision, chosen_models
from locate.edges.edge_pruning import HIGH, LOW, TEMPERATURE, _drawn, _kept
from locate.edges.score import pair_scores, score_edges
from locate.search import Scoring
from tests.tiny import equal_length_pairs, tiny_model


def scores(model: Model, pairs: Any, batch_size: int = 16, **options: Any) -> EdgeScores:
    asked = {"method": "edge-pruning", "options": {"updates": 30, "share": 0.3, **options}}
    found = score_edges(model, pairs, build(Scoring, asked), batch_size=batch_size)
    assert isinstance(found, EdgeScores)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mover/gpt2", "negative/gqa", "redundant/gpt2"])
def test_a_planted_circuit_is_found_also_where_heads_do_for_each_other(name):
    (planted,) = chosen_models([name])
    model = planted.made()
    found = scores(model, planted.pairs(model), updates=300, share=0.01)
    truth = planted.truth(model, build(Scoring, {"method": "edge-pruning"}))
    assert auroc(found.values, truth) > 0.99
    assert average_precision(found.values, truth) > 0.9


def test_the_chance_that_a_mask_is_open_is_what_draws_say():
    openness = torch.linspace(-4, 4, 9)
    draws = torch.rand(20_000, 9, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([_drawn(openness, chance) for chance in draws.clamp(1e-6, 1 - 1e-6)])
    assert ((masks >= 0) & (masks <= 1)).all()
    torch.testing.assert_close((masks > 0).float().mean(0), _kept(openness), atol=0.015, rtol=0)
    # By the definition: 0 where the stretched mask is at its lower end or below.
    edge = torch.logit(torch.tensor(-LOW / (HIGH - LOW)))
    by_hand = 1 - torch.sigmoid(TEMPERATURE * edge - openness)
    torch.testing.assert_close(_kept(openness), by_hand)


@pytest.mark.slow
def test_batches_and_order_do_not_matter_the_seed_does_and_the_model_is_as_before(model, pairs):
    before = {name: value.clone() for name, value in model.bridge.state_dict().items()}
    pairs = pairs[:4]
    whole = scores(model, pairs)
    again = scores(model, pairs)
    other = scores(model, pairs[::-1], batch_size=2)
    assert np.array_equal(whole.values, again.values)
    np.testing.assert_allclose(other.values, whole.values, atol=1e-3)
    assert not np.allclose(scores(model, pairs, seed=1).values, whole.values, atol=1e-2)
    assert ((whole.values > 0) & (whole.values < 1)).all()
    assert all(torch.equal(v, before[n]) for n, v in model.bridge.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.bridge.hook_dict.values())


def test_the_expected_share_comes_to_what_was_asked_for():
    model = tiny_model("gpt2")
    pairs = equal_length_pairs(model)[:1]
    shares = [scores(model, pairs, share=share, updates=80).values.mean() for share in (0.5, 0.25)]
    assert shares == pytest.approx([0.5, 0.25], rel=0.3)


@pytest.mark.slow
def test_more_of_the_model_is_kept_than_by_edges_at_random(model, pairs):
    pairs = pairs[:3]
    found = scores(model, pairs, share=0.25, updates=100)
    n = found.wiring.n_edges // 4
    generator = np.random.default_rng(0)
    random = [EdgeScores(found.wiring, generator.random(found.wiring.n_edges)) for _ in range(10)]
    circuits = [select(each, "top", n) for each in (found, *random)]
    runs = run_circuits(model, pairs, circuits)
    away = [np.abs(run.metric - runs.model.metric).mean() for run in runs.circuits]
    assert away[0] < min(away[1:])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
        ({"updates": 0}, "updates"),
        ({"rate": 0}, "rate"),
        ({"seed": -1}, "seed"),
    ],
)
def test_nonsense_is_refused(options, match):
    with pytest.raises(OptionError, match=match):
        build(Scoring, {"method": "edge-pruning", "options": options})


def test_there_are_no_scores_of_single_pairs(model, pairs):
    asked = build(Scoring, {"method": "edge-pruning"})
    with pytest.raises(OptionError, match="no scores of single pairs"):
        pair_scores(model, pairs, asked)


def test_a_model_that_says_the_same_to_both_prompts_has_nothing_to_lose():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.bridge.embed.weight.fill_(0.5)
    with pytest.raises(NumericalError, match="differ"):
        scores(model, equal_length_pairs(model)[:2])
