"""Circuits of models with a norm after the attention, held to Hugging Face's own modules.

There what one head writes depends on all, so that it matters what the others are that nothing
reads. Families without such a norm are here as the check of the check.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.running import CircuitRunner
from circuits.graph.soft import SoftRunner
from circuits.model.model import Model
from tests import plain_circuit
from tests.families import FAMILIES, TOKENIZER, family_hf, family_pairs
from tests.plain_hf import PlainModel

LAYERS, SEEDS = 4, 6
KINDS = ["llama", "gemma2", "gemma3_text", "olmo2", "olmo3"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=KINDS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def made(family: str) -> tuple[Model, PlainModel, list[TokenPair]]:
    more: dict[str, object] = {"num_hidden_layers": LAYERS}
    if "layer_types" in FAMILIES[family][1]:
        more["layer_types"] = FAMILIES[family][1]["layer_types"] * (LAYERS // 2)
    model = Model.from_hf(family_hf(family, **more), TOKENIZER, family)
    plain = PlainModel(family_hf(family, **more), model.n_heads, model.d_head)
    return model, plain, family_pairs(model)


def base_of(family: str, batch: PairBatch, ablation: Ablation) -> plain_circuit.Base:
    model, plain, pairs = made(family)
    wiring = model.wiring()
    if ablation is Ablation.PATCH:
        return plain_circuit.corrupted(plain, wiring, batch.corrupted)
    if ablation is Ablation.MEAN:
        runs = [(each.clean, int(pairs[each.index[0]].clean.bos)) for each in batches(pairs, 1)]
        return plain_circuit.mean(plain, wiring, runs)
    found = plain_circuit.corrupted(plain, wiring, batch.corrupted)
    return plain_circuit.Base(0 * found.written, [0 * raw for raw in found.raw])


def some(model: Model, seed: int) -> Circuit:
    wiring = model.wiring()
    return Circuit(wiring, np.random.default_rng(seed).random(wiring.n_edges) < 0.5)


@pytest.mark.parametrize("ablation", Ablation)
def test_a_circuit_is_what_hugging_faces_modules_make_of_its_edges(family, ablation) -> None:
    model, plain, pairs = made(family)
    wiring, batch = model.wiring(), next(iter(batches(pairs[:1], 1)))
    constants = source_constants(model, pairs, ablation) if ablation.is_constant else None
    runner = CircuitRunner(model, batch, wiring, ablation, constants)
    base, found = base_of(family, batch, ablation), []
    for seed in range(SEEDS):
        circuit = some(model, seed)
        expected = plain_circuit.run(plain, wiring, circuit.matrix(), batch.clean, base)
        found.append(runner.run(circuit))
        torch.testing.assert_close(found[-1], expected, **CLOSE)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", Ablation)
def test_what_leads_nowhere_changes_nothing(family, ablation) -> None:
    model, _, pairs = made(family)
    wiring, batch = model.wiring(), next(iter(batches(pairs[:1], 1)))
    constants = source_constants(model, pairs, ablation) if ablation.is_constant else None
    runner = CircuitRunner(model, batch, wiring, ablation, constants)
    soft, less = SoftRunner(model, batch, wiring, ablation, constants), 0
    for seed in range(SEEDS):
        kept = some(model, seed).matrix()
        expected, pruned = runner.run(kept), plain_circuit.without_ends(wiring, kept)
        less += int((kept != pruned).sum())
        torch.testing.assert_close(runner.run(pruned), expected, **CLOSE)
        for each in (kept, pruned):
            masks = torch.from_numpy(each).to(model.dtype)
            torch.testing.assert_close(soft.run_masked(masks), expected, **CLOSE)
    assert less > 0
