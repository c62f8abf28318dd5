"""A circuit as a model: the runner's numbers, for plain prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError, PromptError
from circuits.edits.edit import WeightDelta
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_model import CircuitModel
from circuits.graph.running import CircuitRunner
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model
from locate.states.steering import patched
from tests.oracles import plain_circuit_run
from tests.tiny import equal_length_pairs, tiny_model


def some(model: Model, seed: int = 0, share: float = 0.6) -> Circuit:
    wiring = model.wiring()
    return Circuit(wiring, np.random.default_rng(seed).random(wiring.n_edges) < share)


def sides(pairs: list[TokenPair]) -> tuple[list[str], list[str]]:
    return [pair.text.clean for pair in pairs], [pair.text.corrupted for pair in pairs]


def whole(model: Model, prompts: list[str]) -> torch.Tensor:
    ids = [model.tokenizer.encode(prompt).ids for prompt in prompts]
    with torch.no_grad():
        return torch.stack([model.last_logits(torch.tensor([each]))[0] for each in ids])


@pytest.mark.parametrize("ablation", Ablation)
def test_a_circuit_alone_says_what_the_runner_and_a_plain_run_say(
    model: Model, pairs: list[TokenPair], ablation: Ablation
):
    circuit, (clean, corrupted) = some(model), sides(pairs)
    given = {"prompts": clean} if ablation is Ablation.MEAN else {}
    alone = circuit.as_model(model, ablation, **given)
    beside = corrupted if ablation is Ablation.PATCH else None
    found = alone.logits(clean, beside)
    constants = source_constants(model, pairs, ablation) if ablation.is_constant else None
    for batch in batches(pairs, 1, model):
        row = batch.index[0]
        runner = CircuitRunner(model, batch, circuit.wiring, ablation, constants)
        torch.testing.assert_close(found[[row]], runner.run(circuit), atol=2e-4, rtol=1e-4)
        plain = plain_circuit_run(model, batch, circuit, constants)
        torch.testing.assert_close(found[[row]], plain, atol=3e-4, rtol=1e-4)
        said = alone.ask(clean[row], None if beside is None else beside[row], k=3)
        best = found[row].softmax(-1).topk(3).values.tolist()
        np.testing.assert_allclose(said.probabilities, best, rtol=1e-3)


def test_all_edges_are_the_model_and_none_the_corrupted_prompt(model: Model):
    pairs = equal_length_pairs(model)
    clean, corrupted = sides(pairs)
    full, empty = Circuit.full(model.wiring()), Circuit.empty(model.wiring())
    expected = whole(model, clean)
    for alone in (full.as_model(model, "zero"), full.as_model(model, "mean", prompts=corrupted)):
        torch.testing.assert_close(alone.logits(clean), expected, atol=3e-4, rtol=1e-4)
    found = full.as_model(model).logits(clean, corrupted)
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)
    found = empty.as_model(model).logits(clean, corrupted)
    torch.testing.assert_close(found, whole(model, corrupted), atol=3e-4, rtol=1e-4)
    same = some(model).as_model(model).logits(clean, clean)
    torch.testing.assert_close(same, expected, atol=3e-4, rtol=1e-4)


def test_one_corrupted_prompt_serves_all(model: Model, pairs: list[TokenPair]):
    clean, corrupted = sides(pairs[:1])
    alone = some(model).as_model(model)
    twice = alone.logits(clean * 2, corrupted[0])
    torch.testing.assert_close(twice[0], alone.logits(clean, corrupted)[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twice[0], twice[1])


def test_constants_of_ones_own_are_what_cut_edges_carry(model: Model, pairs: list[TokenPair]):
    clean, circuit, corrupted = sides(pairs)[0], some(model), sides(pairs)[1]
    mean = circuit.as_model(model, "mean", prompts=corrupted)
    found = mean.constants
    own = {f"m{layer}": found.mlps[layer].numpy() for layer in range(model.n_layers)} | {
        f"a{layer}.h{head}": found.heads[layer][head].numpy()
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
    }
    embedded = np.flatnonzero(circuit.wiring.edge_src == 0)
    kept = circuit.kept.copy()
    kept[embedded] = True  # the embedding's constant is nobody's to set
    all_embedded = Circuit(circuit.wiring, kept)
    expected = all_embedded.as_model(model, "mean", prompts=corrupted).logits(clean)
    alone = all_embedded.as_model(model, constants=own)
    torch.testing.assert_close(alone.logits(clean), expected, atol=3e-4, rtol=1e-4)
    zero = all_embedded.as_model(model, "zero").logits(clean)
    assert not torch.allclose(zero, expected, atol=1e-2)


def test_the_ablation_is_that_which_the_circuit_was_found_with(model: Model):
    circuit = Circuit(model.wiring(), some(model).kept, provenance={"ablation": "zero"})
    assert circuit.as_model(model).ablation is Ablation.ZERO
    assert some(model).as_model(model).ablation is Ablation.PATCH
    assert EdgeScores(model.wiring(), np.ones(model.wiring().n_edges)).wiring == circuit.wiring


def test_what_cannot_be_run_is_refused_in_one_line(model: Model, pairs: list[TokenPair]):
    (clean, *_), (corrupted, *_) = sides(pairs)
    alone = some(model).as_model(model)
    with pytest.raises(OptionError, match="`corrupted`"):
        alone.ask(clean)
    with pytest.raises(PromptError, match="as many as the prompt"):
        alone.logits(clean, clean + " so")
    with pytest.raises(OptionError, match="as many corrupted"):
        alone.logits([clean] * 3, [corrupted] * 2)
    with pytest.raises(OptionError, match="no prompts"):
        alone.logits([])
    with pytest.raises(OptionError, match="takes no corrupted"):
        some(model).as_model(model, "zero").logits(clean, corrupted)
    for options, why in (
        ({"ablation": "mean"}, "needs `prompts`"),
        ({"ablation": "zero", "prompts": [clean]}, "for the ablation mean"),
        ({"ablation": "patch", "constants": {"m0": 0}}, "take ablation zero or mean"),
        ({"constants": {"resid0": 0}}, "not of 'resid0'"),
        ({"constants": {"m0": [1, 2]}}, "is a number or"),
        ({"ablation": "nonsense"}, "nonsense"),
    ):
        with pytest.raises(OptionError, match=why):
            some(model).as_model(model, **options)
    with pytest.raises(OptionError, match="the circuit is for"):
        some(tiny_model("gpt2", layers=2)).as_model(model)


def test_bos_is_as_the_circuit_was_found_with(model: Model):
    plain = model.with_bos(False)
    circuit = some(model)
    found = replace(circuit, provenance={**circuit.provenance, "bos": False})
    assert model.tokenizer.use_bos(None)
    prompts = ["The capital of Peru is"], ["The capital of Cuba is"]
    ours = found.as_model(model).logits(*prompts)
    assert torch.equal(ours, circuit.as_model(plain).logits(*prompts))
    assert not torch.allclose(ours, circuit.as_model(model).logits(*prompts))


@pytest.mark.parametrize("bos", [None, False])
def test_means_are_those_of_the_model_that_is_run(
    model: Model, pairs: list[TokenPair], bos: bool | None
):
    """Whenever it was made: with an edit or a patch, without, and with weights written by hand."""
    clean, circuit = sides(pairs)[0], some(model)
    circuit = replace(circuit, provenance={"bos": bos})
    name = "m0" if model.architecture.normed_after else "a0.h0"

    def alone() -> CircuitModel:
        return circuit.as_model(model, "mean", prompts=clean)

    before = alone()
    plain = before.logits(clean)
    weight = next(name for name in model.parameter_names if "mlp" in name)
    change = torch.randn(model.shape(weight), generator=torch.Generator().manual_seed(0))
    delta = WeightDelta({weight: change}, {})

    def differs(found: torch.Tensor) -> bool:
        return not torch.allclose(found, plain, atol=1e-3)

    for block in (delta.applied(model), patched(model, name, to=0.3)):
        with block:
            inside = alone()
            expected = inside.logits(clean)
            assert differs(expected)
            assert torch.equal(before.logits(clean), expected)
        assert torch.equal(before.logits(clean), plain)
        assert torch.equal(inside.logits(clean), plain)
    kept = model.parameter(weight).clone()
    try:
        model.set_parameter(weight, kept + change)
        assert differs(before.logits(clean))
        assert torch.equal(before.logits(clean), alone().logits(clean))
    finally:
        model.set_parameter(weight, kept)
    assert torch.equal(before.logits(clean), plain)


@pytest.mark.parametrize("way", ["add", "to"])
def test_means_are_taken_anew_for_another_patch_of_equal_norm(
    model: Model, pairs: list[TokenPair], way: str
):
    clean, circuit = sides(pairs)[0], some(model)
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    before = circuit.as_model(model, "mean", prompts=clean)
    found, records = [], []
    for value in (vector, -vector):
        with patched(model, "m0", **{way: value}):
            found.append(before.logits(clean))
            records.append(model.provenance)
            fresh = circuit.as_model(model, "mean", prompts=clean)
            assert torch.equal(found[-1], fresh.logits(clean))
    assert not torch.allclose(*found, atol=1e-3)
    assert records[0]["patched"] == records[1]["patched"]  # in words they are the same
    assert records[0]["patched_sha256"] != records[1]["patched_sha256"]


def test_models_of_the_same_weights_tell_of_the_same_edits(model: Model):
    weight = next(name for name in model.parameter_names if "mlp" in name)
    delta = WeightDelta({weight: torch.ones(model.shape(weight))}, {})
    before, plain = model.with_bos(False), model.provenance
    assert before is not model
    with delta.applied(model):
        inside = model.with_bos(False)
        for each in (before, inside):
            assert each.provenance == {**plain, "edits": [delta.fingerprint()]}
    for each in (model, before, inside):
        assert each.provenance == plain
