"""Edges kept in part: against circuits, clean and corrupted runs, and small differences."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.choices import KeyValue
from circuits.facts.batches import batches
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.soft import SoftRunner
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from tests.families import FAMILIES, family_model, family_pairs
from tests.oracles import plain_circuit_run

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
ABLATIONS = ["patch", "mean"]
KINDS = ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2", "mixtral"]


@cache
def shared(family: str) -> Model:
    return family_model(family)


def runners(model: Model, ablation: str = "patch") -> list[SoftRunner]:
    """One for each wiring; two pairs, whose beginning is the same where the model patches."""
    pairs = family_pairs(model)
    (batch, *_) = batches(pairs[:1] * 2, 2, model)
    constants = None if ablation == "patch" else source_constants(model, pairs, ablation)
    wirings = {model.wiring(kv) for kv in KeyValue}
    if model.architecture.is_joint:
        wirings = {model.wiring()}
    return [SoftRunner(model, batch, wiring, ablation, constants) for wiring in wirings]


def matrix(wiring: Wiring, values: Any) -> Tensor:
    return torch.from_numpy(wiring.to_matrix(np.asarray(values, dtype=np.float64)))


def drawn(wiring: Wiring, seed: int, share: float) -> Circuit:
    return Circuit(wiring, np.random.default_rng(seed).random(wiring.n_edges) < share)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_0_and_1_are_the_circuit(family, ablation):
    for runner in runners(shared(family), ablation):
        for seed, share in enumerate((0.0, 0.15, 0.5, 0.9, 1.0)):
            circuit = drawn(runner.wiring, seed, share)
            masks = matrix(runner.wiring, circuit.kept)
            torch.testing.assert_close(runner.run_masked(masks), runner.run(circuit), **CLOSE)


def test_masks_of_0_and_1_are_a_plain_run_of_the_circuit(model, pairs):
    (batch, *_) = batches(pairs, 2, model)
    runner = SoftRunner(model, batch, model.wiring())
    circuit = drawn(runner.wiring, 0, 0.5)
    found = runner.run_masked(matrix(runner.wiring, circuit.kept).float())
    torch.testing.assert_close(found, plain_circuit_run(model, batch, circuit), **CLOSE)


@pytest.mark.parametrize("family", KINDS)
def test_masks_of_1_are_the_clean_run_of_0_the_corrupted_run_and_halves_neither(family):
    model = shared(family)
    (batch, *_) = batches(family_pairs(model)[:1] * 2, 2, model)
    clean, corrupted = model.last_logits(batch.clean), model.last_logits(batch.corrupted)
    for runner in runners(model):
        every = torch.ones(runner.wiring.n_edges)
        runs = [runner.run_masked(matrix(runner.wiring, share * every)) for share in (1, 0, 0.5)]
        torch.testing.assert_close(runs[0], clean, **CLOSE)
        torch.testing.assert_close(runs[1], corrupted, **CLOSE)
        assert not any(torch.allclose(runs[2], each, rtol=1e-2) for each in runs[:2])


@pytest.mark.parametrize("ablation", ["patch", "mean"])
@pytest.mark.parametrize("family", KINDS)
def test_the_gradient_is_that_of_small_differences(family, ablation):
    """Along random directions; weights want no gradient before or after. Some norms and softmaxes
    are in single precision in models of double precision too."""
    model = shared(family)
    runner = runners(model, ablation)[0]
    generator = np.random.default_rng(0)
    wiring, step = runner.wiring, 1e-3
    masks = matrix(wiring, generator.uniform(0.1, 0.9, wiring.n_edges))

    def loss(logits: Tensor) -> Tensor:
        return (logits * torch.linspace(-1, 1, logits.shape[1])).pow(2).mean()

    value, gradient = runner.gradient(masks, loss)
    assert value == pytest.approx(float(loss(runner.run_masked(masks))), rel=1e-6)
    assert not gradient[~torch.from_numpy(wiring.mask)].any()
    for _ in range(3):
        direction = matrix(wiring, generator.standard_normal(wiring.n_edges))
        ends = [float(loss(runner.run_masked(masks + s * direction))) for s in (step, -step)]
        slope = float((gradient * direction).sum())
        size = float(gradient.norm() * direction.norm()) / wiring.n_edges**0.5
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2, abs=1e-2 * size)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())


@pytest.mark.parametrize("family", ["gpt2", "olmo2", "gemma2"])
def test_an_edge_that_a_circuit_lacks_has_the_gradient_of_what_its_return_brings(family):
    """At a circuit of 0 and 1, one edge at a time and by single-sided differences."""
    runner = runners(shared(family))[0]
    wiring, step = runner.wiring, 1e-3  # norms are in single precision in olmo2 and gemma2
    masks = matrix(wiring, drawn(wiring, 3, 0.9).kept)

    def loss(logits: Tensor) -> Tensor:
        return logits[:, 3].sum()

    value, gradient = runner.gradient(masks, loss)
    read = [(masks[src] != 0).any() for src in range(wiring.n_src)]
    lacking = [
        (int(src), int(dst))
        for src, dst in zip(wiring.edge_src, wiring.edge_dst, strict=True)
        if not masks[src, dst] and read[src]
    ]
    for src, dst in lacking[::9]:
        more = masks.clone()
        more[src, dst] = step
        slope = (float(loss(runner.run_masked(more))) - value) / step
        assert float(gradient[src, dst]) == pytest.approx(slope, rel=2e-2, abs=3e-3)
