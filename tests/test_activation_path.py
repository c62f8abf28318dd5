"""EAP-IG on activations: against runs of the bridge one pair and stage at a time, and its laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.choices import KeyValue, Rule
from circuits.base.options import build
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.scores import EdgeScores
from circuits.model import taps
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from locate.edges.score import score_edges
from locate.search import Scoring
from tests.families import family_model, family_pairs
from tests.oracles import plain_eap
from tests.tiny import equal_length_pairs, tiny_model

METHOD = "eap-ig-activations"


def scores(model: Model, pairs: Any, batch_size: int = 16, **more: Any) -> EdgeScores:
    asked = build(Scoring, {"method": METHOD, "steps": 2, **more})
    found = score_edges(model, pairs, asked, batch_size=batch_size, keep_pairs=True)
    assert isinstance(found, EdgeScores)
    return found


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max())


def written(model: Model, tokens: Tensor, name: str) -> Tensor:
    """What a part writes on a prompt."""
    seen: list[Tensor] = []
    with torch.no_grad():
        model.last_logits(tokens, [(name, lambda value, hook: seen.append(value.clone()))])
    return seen[0]


def stages(model: Model) -> list[tuple[str, range]]:
    """Where each stage writes, and its sources."""
    found, wiring = [("embed.hook_out", range(1))], model.wiring()
    for layer in range(model.n_layers):
        first, mlp = wiring.head_src(layer), wiring.mlp_src(layer)
        found.append((f"blocks.{layer}.attn.hook_out", range(first, first + model.n_heads)))
        found.append((f"blocks.{layer}.mlp.hook_out", range(mlp, mlp + 1)))
    return found


def plainly(model: Model, pair: TokenPair, metric: Any, fractions: list[float]) -> np.ndarray:
    """Each stage's rows of a plain EAP whose run has that stage on its way."""
    wiring = model.wiring()
    matrix = np.zeros((wiring.n_src, wiring.n_dst), dtype=np.float32)
    for name, sources in stages(model):
        clean, corrupted = (
            written(model, torch.tensor([prompt.ids]), name)
            for prompt in (pair.clean, pair.corrupted)
        )
        for fraction in fractions:
            between = fraction * clean + (1 - fraction) * corrupted

            def put(value: Tensor, hook: Any, between: Tensor = between) -> Tensor:
                return value * 0 + between

            found = plain_eap(model, [pair], metric, hooks=[(name, put)]).numpy()
            matrix[sources] += found[sources] / len(fractions)
    return wiring.from_matrix(matrix)


@pytest.mark.parametrize("metric", ["logit-diff", "kl"])
def test_scores_are_those_of_plain_runs_with_one_stage_on_its_way(model, pairs, metric):
    ours = scores(model, pairs[:1], metric=metric)
    assert close(ours.values, plainly(model, pairs[0], metric, [0.25, 0.75]))


def test_the_edges_that_leave_the_input_score_as_with_eap_ig(model, pairs):
    leaving, pairs = model.wiring().edge_src == 0, pairs[:2]
    other = score_edges(model, pairs, build(Scoring, {"method": "eap-ig", "steps": 2})).values
    ours = scores(model, pairs).values
    assert close(ours[leaving], other[leaving], 1e-5)
    assert not close(ours[~leaving], other[~leaving], 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "olmo2", "mixtral"])
def test_what_leaves_a_stage_sums_to_what_replacing_its_output_costs(family):
    """In each kind of block: completeness, stage by stage, hooks gone afterwards."""
    model = family_model(family)
    points = model.bridge.hook_dict.values()
    before = [len(point.fwd_hooks) + len(point.bwd_hooks) for point in points]
    (batch,) = batches(family_pairs(model)[:1], 1, model)
    matrix = scores(model, family_pairs(model)[:1], steps=12).matrix()

    def metric(hooks: Any = ()) -> float:
        with torch.no_grad():
            logits = model.last_logits(batch.clean, hooks)
        return float(evaluate_metric("logit-diff", logits, batch.answer, batch.foil)[0])

    wiring, size = model.wiring(), 0.0
    costs, sums = [], []
    for layer in range(model.n_layers):
        first, mlp = wiring.head_src(layer), wiring.mlp_src(layer)
        heads = slice(first, first + model.n_heads)
        for name, sources in (
            (model.taps.attention_out(layer), heads),
            (model.taps.mlp_out(layer), slice(mlp, mlp + 1)),
        ):
            other = written(model, batch.corrupted, name)

            def put(value: Tensor, hook: Any, other: Tensor = other) -> Tensor:
                return other.view(value.shape)

            costs.append(metric() - metric([(name, put)]))
            sums.append(matrix[sources].sum())
    size = np.abs(costs).max()
    np.testing.assert_allclose(sums, costs, atol=0.05 * size)
    assert [len(point.fwd_hooks) + len(point.bwd_hooks) for point in points] == before


@pytest.mark.slow
def test_batch_mates_order_and_the_rule_of_points(model, pairs):
    pairs = pairs[:4]
    whole = scores(model, pairs)
    other = scores(model, pairs[::-1], batch_size=2)
    assert close(other.per_pair[::-1], whole.per_pair, 1e-5)
    assert close(whole.per_pair.mean(0), whole.values, 1e-5)
    at_end = scores(model, pairs, steps=1, rule=Rule.RIGHT)
    plain = score_edges(model, pairs, build(Scoring, {"method": "eap"}))
    assert close(at_end.values, plain.values, 1e-5)  # one point, at the clean run


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_a_constant_takes_the_place_of_the_corrupted_run(model, pairs, ablation):
    """Zero: the path of an MLP's output begins at nothing."""
    one = scores(model, pairs[:2], ablation=ablation, batch_size=1)
    many = scores(model, pairs[:2], ablation=ablation)
    assert close(one.values, many.values, 1e-5)
    if ablation == "mean":
        return
    (batch,), last = batches(pairs[:1], 1, model), model.n_layers - 1
    single = scores(model, pairs[:1], ablation=ablation, steps=12).matrix()
    name = taps.mlp_raw(last)
    with torch.no_grad():
        runs = [model.last_logits(batch.clean, hooks) for hooks in ((), [(name, nothing)])]
    values = [evaluate_metric("logit-diff", r, batch.answer, batch.foil) for r in runs]
    lost = float(values[0] - values[1])
    assert single[model.wiring().mlp_src(last)].sum() == pytest.approx(lost, rel=0.02, abs=1e-5)
    assert abs(lost) > 1e-3


def nothing(value: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(value)


def test_ungrouped_scores_summed_over_a_group_are_the_grouped_scores():
    model = tiny_model("llama", heads=6, kv_heads=2, width=48)
    pairs = equal_length_pairs(model)[:3]
    grouped, ungrouped = scores(model, pairs), scores(model, pairs, kv=KeyValue.PER_QUERY_HEAD)
    assert close(ungrouped.grouped().values, grouped.values, 1e-5)
