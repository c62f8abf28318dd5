"""Neurons of MLPs: their scores sum to the MLP's, and patching is what a plain run does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.errors import OptionError, UnsupportedArchitectureError
from circuits.base.options import build
from circuits.facts.pairs import TokenPair
from circuits.model import taps
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from locate.neurons.options import METHODS, NeuronSearch
from locate.neurons.patching import patch_neurons
from locate.neurons.scoring import NeuronScores, directions, score_neurons
from locate.search import Scoring
from tests.families import FAMILIES, family_model, family_pairs
from tests.tiny import equal_length_pairs, tiny_model

EXPERTS = {"mixtral", "qwen2_moe", "qwen3_moe"}
NORMED_AFTER = {"gemma2", "gemma3_text", "olmo2"}


def every(model: Model) -> dict[int, list[int]]:
    """All neurons of all MLPs."""
    return {
        layer: list(range(model.mlp_output_matrix(layer).shape[1]))
        for layer in range(model.n_layers)
    }


def scores(model: Model, pairs: Any, batch_size: int = 16, **more: Any) -> NeuronScores:
    search = build(NeuronSearch, {"steps": 2, **more})
    layers = range(model.n_layers)
    return score_neurons(model, pairs, layers, search.scoring, every(model), batch_size=batch_size)


def values(model: Model, ids: Any, name: str, hooks: Any = ()) -> Tensor:
    """What stands at a hook in a run."""
    seen: list[Tensor] = []
    model.last_logits(torch.tensor([ids]), [*hooks, (name, lambda value, hook: seen.append(value))])
    return seen[0].reshape(len(ids), -1)


def plain_scores(model: Model, pair: TokenPair) -> np.ndarray:
    """EAP of neurons by the chain rule: the gradient at the activations themselves."""
    found = []
    for layer in range(model.n_layers):
        name = taps.mlp_keys(layer)
        with torch.no_grad():
            corrupted = values(model, pair.corrupted.ids, name)
        begin = [(taps.EMBEDDING, lambda value, hook: value.detach().requires_grad_(True))]
        clean: list[Tensor] = []
        logits = model.last_logits(
            torch.tensor([pair.clean.ids]),
            [*begin, (name, lambda value, hook, clean=clean: clean.append(value))],
        )
        metric = logits[0, pair.answer] - logits[0, pair.foil]
        (gradient,) = torch.autograd.grad(metric, clean[0])
        change = clean[0].detach().reshape(corrupted.shape) - corrupted
        found.append((change * gradient.reshape(corrupted.shape)).sum(0).numpy())
    return np.stack(found)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scores_are_activation_changes_times_the_gradient_at_the_activations(kind: str) -> None:
    model = tiny_model(kind)
    pairs = equal_length_pairs(model)
    expected = np.stack([plain_scores(model, pair) for pair in pairs])
    found = scores(model, pairs, method="eap")
    assert np.allclose(found.per_pair, expected, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(found.mean, expected.mean(0), atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scores_of_an_mlps_neurons_sum_to_its_own(kind: str, method: str) -> None:
    model = tiny_model(kind)
    found = scores(model, equal_length_pairs(model), method=method)
    assert np.abs(found.nodes).max() > 0.01
    assert np.allclose(found.per_pair.sum(-1), found.nodes, atol=1e-4 * np.abs(found.nodes).max())


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - EXPERTS))
@pytest.mark.parametrize("method", ["eap-ig", "gim"])
def test_they_do_in_every_architecture(family: str, method: str) -> None:
    model = family_model(family)
    if method == "gim" and model.architecture.closed_attention:
        pytest.skip("no rule reaches its attention")
    found = scores(model, family_pairs(model), method=method)
    assert np.abs(found.nodes).max() > 1e-4
    assert np.allclose(found.per_pair.sum(-1), found.nodes, atol=1e-5 * np.abs(found.nodes).max())


@pytest.mark.parametrize("family", sorted(EXPERTS))
def test_mixtures_of_experts_are_refused_before_any_pass(family: str, monkeypatch) -> None:
    model = family_model(family)
    pairs = family_pairs(model)
    monkeypatch.setattr(model, "last_logits", lambda *rest: pytest.fail("a pass was made"))
    for work in (
        lambda: score_neurons(model, pairs, [0], Scoring()),
        lambda: patch_neurons(model, pairs, {0: [[0]]}),
    ):
        with pytest.raises(UnsupportedArchitectureError, match="mixes experts"):
            work()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_on_its_own_path_an_mlps_score_is_what_patching_it_costs(kind: str) -> None:
    model = tiny_model(kind)
    pairs = equal_length_pairs(model)
    found = scores(model, pairs, method="eap-ig-activations", steps=200)
    clean, patched = patch_neurons(model, pairs, {at: [None] for at in range(model.n_layers)})
    costs = np.stack([clean - patched[at][:, 0] for at in range(model.n_layers)], 1)
    assert np.allclose(found.nodes, costs, atol=0.01 * np.abs(costs).max())


@pytest.mark.parametrize("method", ["eap-ig", "eap-ig-activations"])
def test_batches_and_order_leave_scores_unchanged(method: str) -> None:
    model = tiny_model("llama")
    pairs = equal_length_pairs(model)
    together = scores(model, pairs, method=method)
    alone = scores(model, pairs[::-1], 1, method=method)
    largest = np.abs(together.per_pair).max()
    assert np.allclose(together.per_pair, alone.per_pair[::-1], atol=1e-5 * largest)
    assert (together.places == alone.places[::-1]).all()
    assert np.allclose(together.changes, alone.changes[::-1], atol=1e-4)


def plainly_patched(model: Model, pair: TokenPair, layer: int, chosen: Any) -> float:
    """The metric of a whole run in which a hook replaces the activations."""
    name = taps.mlp_keys(layer)
    other = values(model, pair.corrupted.ids, name)

    def replace(value: Tensor, hook: Any) -> Tensor:
        changed = value.clone().reshape(other.shape)
        changed[:, chosen] = other[:, chosen]
        return changed.reshape(value.shape)

    logits = model.last_logits(torch.tensor([pair.clean.ids]), [(name, replace)])
    sides = torch.tensor([pair.answer]), torch.tensor([pair.foil])
    return float(evaluate_metric("logit-diff", logits, *sides)[0])


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - EXPERTS))
@torch.no_grad()
def test_patching_is_a_run_with_replaced_activations(family: str) -> None:
    model = family_model(family)
    pairs, chosen = family_pairs(model), [3, 5, 20]
    clean, patched = patch_neurons(
        model, pairs, {at: [[], chosen, None] for at in range(model.n_layers)}
    )
    for layer, found in patched.items():
        whole = list(range(model.mlp_output_matrix(layer).shape[1]))
        expected = [
            [plainly_patched(model, pair, layer, some) for some in ([], chosen, whole)]
            for pair in pairs
        ]
        assert np.allclose(found, expected, atol=1e-6)
        assert np.allclose(found[:, 0], clean, atol=1e-6)
        assert np.abs(found[:, 1] - clean).max() > 1e-4


def test_what_neurons_write_adds_up_to_what_the_mlp_writes() -> None:
    for family in ("gpt2", "gemma2", "olmo2", "llama"):
        model = family_model(family)
        ids = family_pairs(model)[0].clean.ids
        keys = values(model, ids, taps.mlp_keys(1))
        written = values(model, ids, model.taps.mlp_out(1))
        if family in NORMED_AFTER:
            keys = keys / values(model, ids, taps.norm_scale(1, "ln2_post"))
        rest = written - keys @ directions(model, 1).T
        assert torch.allclose(rest, rest[:1].expand_as(rest), atol=1e-6)  # the output bias
        assert bool(rest.abs().max() > 0.01) == (family == "gpt2")


def test_patches_that_add_are_part_of_the_model_and_those_that_set_are_refused() -> None:
    from circuits.model.patches import Part, Patch, with_patches

    model = tiny_model("gpt2")
    pairs = equal_length_pairs(model)
    part, value = Part.of(model, "m1"), torch.ones(model.d_model)
    with with_patches(model, [Patch(part, value, adds=True)]):
        found = scores(model, pairs)
        assert np.allclose(found.per_pair.sum(-1), found.nodes, atol=1e-3)
        _, patched = patch_neurons(model, pairs, {1: [[0, 1]]})
        assert patched[1][0, 0] == pytest.approx(
            plainly_patched(model, pairs[0], 1, [0, 1]), abs=1e-4
        )
    with with_patches(model, [Patch(part, value)]):
        with pytest.raises(OptionError, match="sets what m1 writes"):
            scores(model, pairs)
        with pytest.raises(OptionError, match="sets what m1 writes"):
            patch_neurons(model, pairs, {1: [[0]]})


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(OptionError, match="neurons get scores by `method` eap, "):
        build(NeuronSearch, {"method": "acdc"})
    with pytest.raises(OptionError, match="each once"):
        NeuronSearch(sizes=(4, 4))
    with pytest.raises(OptionError, match="at least 1"):
        NeuronSearch(sizes=(0,))
    with pytest.raises(OptionError, match="every score would be 0"):
        build(NeuronSearch, {"method": "eap", "metric": "kl"})
    model = tiny_model("gpt2")
    with pytest.raises(OptionError, match="m0 to m2"):
        score_neurons(model, equal_length_pairs(model), [3], Scoring())
