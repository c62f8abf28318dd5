"""EAP-GP: against a path walked one pair at a time, and its laws."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.base.options import build
from circuits.facts.pairs import TokenPair
from circuits.graph.scores import EdgeScores
from circuits.model import taps
from circuits.model.model import Model
from locate.edges.locators import GradientPath, Locator
from locate.edges.score import score_edges
from locate.search import Scoring
from tests.families import family_model, family_pairs
from tests.oracles import plain_eap


def scores(model: Model, pairs: Any, step: float = 1.0, batch_size: int = 16, **more: Any):
    asked = Scoring(Locator.EAP_GP, options=GradientPath(step), **more)
    found = score_edges(model, pairs, asked, batch_size=batch_size, keep_pairs=True)
    assert isinstance(found, EdgeScores)
    return found


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max())


def put(point: Tensor) -> list[tuple[str, Any]]:
    return [(taps.EMBEDDING, lambda value, hook: value * 0 + point)]


def walk(model: Model, pair: TokenPair, step: float, steps: int) -> list[Tensor]:
    """The path's points, by plain runs of whole prompts."""
    clean, corrupted = (torch.tensor([side.ids]) for side in (pair.clean, pair.corrupted))
    moves = (clean != corrupted).cumsum(1).clamp(max=1).unsqueeze(-1)
    with torch.no_grad():
        target = model.last_logits(corrupted)
    point, points = model.embed(clean), []
    for _ in range(steps):
        point = point.detach().requires_grad_(True)
        (model.last_logits(clean, put(point)) - target).square().sum().backward()
        gradient = point.grad * moves
        point = point.detach() - step * gradient / gradient.norm()
        points.append(point)
    return points


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mixtral"])
def test_scores_are_those_of_eap_at_the_points_of_a_path_walked_by_hand(family):
    model = family_model(family, torch.float32)
    pairs = family_pairs(model)[:2]
    ours = scores(model, pairs, step=0.5, steps=3)
    for pair, found in zip(pairs, ours.per_pair, strict=True):
        points = walk(model, pair, 0.5, 3)
        parts = [plain_eap(model, [pair], hooks=put(point)).numpy() for point in points]
        assert close(found, model.wiring().from_matrix(sum(parts) / 3))


def test_a_short_step_stays_at_the_clean_run_which_is_eap(model, pairs):
    plain = score_edges(model, pairs[:3], build(Scoring, {"method": "eap"})).values
    assert close(scores(model, pairs[:3], step=1e-6).values, plain)
    assert not close(scores(model, pairs[:3]).values, plain, 1e-2)


def test_the_path_goes_to_the_corrupted_output(model, pairs):
    clean, corrupted = (torch.tensor([side.ids]) for side in (pairs[0].clean, pairs[0].corrupted))
    points = [model.embed(clean), *walk(model, pairs[0], 0.01, 6)]
    with torch.no_grad():
        target = model.last_logits(corrupted)
        far = [float((model.last_logits(clean, put(each)) - target).norm()) for each in points]
    assert all(after < before for before, after in pairwise(far))


def test_batch_mates_and_order_do_not_matter(model, pairs):
    whole = scores(model, pairs[:4])
    other = scores(model, pairs[:4][::-1], batch_size=3)
    assert close(other.per_pair[::-1], whole.per_pair)
    assert close(whole.per_pair.mean(0), whole.values, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", [Ablation.ZERO, Ablation.MEAN])
def test_a_constant_takes_the_place_of_the_corrupted_run(model, pairs, ablation):
    one = scores(model, pairs[:2], ablation=ablation, batch_size=1).values
    assert close(scores(model, pairs[:2], ablation=ablation).values, one)
    plain = Scoring(Locator.EAP, ablation=ablation)
    at_clean = score_edges(model, pairs[:2], plain)
    assert close(scores(model, pairs[:2], step=1e-6, ablation=ablation).values, at_clean.values)


def test_a_step_of_no_length_is_refused():
    with pytest.raises(OptionError, match="step"):
        GradientPath(0.0)
