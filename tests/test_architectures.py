"""The laws of the core in every architecture, each held against Hugging Face's own model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from circuits.base.choices import Ablation, KeyValue, Metric, TraceKind
from circuits.base.errors import OptionError, UnsupportedArchitectureError
from circuits.edits.edit import EditRequest
from circuits.edits.methods.rome import RomeSettings, rome
from circuits.edits.parts.contexts import ContextSettings
from circuits.edits.parts.moments import find_moments
from circuits.edits.parts.value import ValueSettings
from circuits.facts.batches import PairBatch, batches
from circuits.files.exchange import load_eap_ig, save_eap_ig
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.restoring import run_restored, source_outputs
from circuits.graph.running import CircuitRunner
from circuits.model import taps
from circuits.model.architectures import ARCHITECTURES, check_architecture
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model, load
from circuits.model.wiring import Wiring
from experiments.workshop.plain_tracing import plain_trace
from locate.edges.eap import attribute
from locate.edges.exact import patch_chosen_edges
from locate.edges.locators import Locator
from locate.heads.attention import read_heads
from locate.heads.head_check import Role
from locate.heads.role_criteria import RoleCriteria
from locate.heads.roles import head_roles
from locate.search import Scoring
from locate.states.attribution import direct_logit_attribution
from locate.states.lens import logit_lens
from locate.states.noise import subject_noise
from locate.states.tracing import trace
from tests.families import FAMILIES, family_hf, family_model, family_pairs
from tests.plain_hf import PlainModel

# Norms of Hugging Face compute in single precision, whatever the model's own.
SINGLE = {"rtol": 1e-4, "atol": 2e-5}


shared_model, shared_hf = cache(family_model), cache(family_hf)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> Model:
    """Shared; no test may leave it changed."""
    return shared_model(family)


@pytest.fixture
def batch(model: Model) -> PairBatch:
    return next(iter(batches(family_pairs(model)[:1], 1)))


def wirings(model: Model) -> list[Wiring]:
    shared = model.n_kv_heads != model.n_heads
    return [model.wiring(kv) for kv in (KeyValue if shared else [KeyValue.GROUPED])]


def metric(batch: PairBatch, logits: torch.Tensor) -> float:
    return float(evaluate_metric(Metric.LOGIT_DIFFERENCE, logits, batch.answer, batch.foil))


def test_every_covered_architecture_has_a_model_here() -> None:
    assert {kind for kind, _ in FAMILIES.values()} == set(ARCHITECTURES)


def test_logits_are_hugging_faces_with_and_without_a_shared_beginning(family, model, batch) -> None:
    with torch.no_grad():
        expected = shared_hf(family)(batch.clean).logits[:, -1]
    start = batch.first_difference
    prefix = model.share_prefix(batch.clean[:, :start])
    rest = model.last_logits(batch.clean[:, start:], prefix=prefix)
    torch.testing.assert_close(model.last_logits(batch.clean), expected, **SINGLE)
    torch.testing.assert_close(rest, expected, **SINGLE)


def test_edges_are_counted_and_parallel_blocks_have_none_from_heads_to_their_mlp(model) -> None:
    layers, heads, keys = model.n_layers, model.n_heads, model.n_kv_heads
    before = [1 + layer * (heads + 1) for layer in range(layers)]
    own = 0 if model.architecture.parallel else heads
    by_layer = [n * (heads + 2 * keys) + n + own for n in before]
    assert model.wiring().n_edges == sum(by_layer) + 1 + layers * (heads + 1)
    assert ("a1.h0->m1" in map(model.wiring().edge_name, range(model.wiring().n_edges))) == bool(
        own
    )


def test_all_sources_together_are_the_residual_stream(model, batch) -> None:
    seen: dict[str, torch.Tensor] = {}
    names = [taps.resid_post(model.n_layers - 1)]
    names += [taps.POSITIONS] if model.architecture.has_positions else []
    hooks = [(name, lambda value, hook, at=name: seen.__setitem__(at, value)) for name in names]
    model.last_logits(batch.clean, hooks)
    biases = [model.head_output_bias(layer) for layer in range(model.n_layers)]
    total = source_outputs(model, batch.clean).sum(1) + sum(b for b in biases if b is not None)
    torch.testing.assert_close(total + seen.get(taps.POSITIONS, 0), seen[names[0]], **SINGLE)


@pytest.mark.parametrize("ablation", [Ablation.PATCH, Ablation.MEAN])
def test_the_full_circuit_is_the_clean_run_and_the_empty_one_the_corrupted(
    model, batch, ablation
) -> None:
    constants = None
    if ablation.is_constant:
        constants = source_constants(model, family_pairs(model), ablation)
    for wiring in wirings(model):
        runner = CircuitRunner(model, batch, wiring, ablation, constants)
        clean = model.last_logits(batch.clean)
        torch.testing.assert_close(runner.run(Circuit.full(wiring)), clean, **SINGLE)
        if ablation is Ablation.PATCH:
            corrupted = model.last_logits(batch.corrupted)
            assert not torch.allclose(corrupted, clean, rtol=1e-2)
            torch.testing.assert_close(runner.run(Circuit.empty(wiring)), corrupted, **SINGLE)


def sample(wiring: Wiring, n: int) -> list[str]:
    """Edges of every kind of destination, at random."""
    order = np.random.default_rng(1).permutation(wiring.n_edges)
    by_kind: dict[str, list[str]] = {}
    for edge in order:
        name = wiring.edge_name(edge)
        slot = wiring.dst_slots[wiring.edge_dst[edge]] or name.partition("->")[2][0]
        by_kind.setdefault(slot, []).append(name)
    return [name for names in by_kind.values() for name in names[:n]]


def test_an_exact_score_is_what_hugging_faces_model_loses_without_the_edge(
    family, model, batch
) -> None:
    plain = PlainModel(shared_hf(family), model.n_heads, model.d_head)
    names = sample(model.wiring(), 2)
    exact = patch_chosen_edges(model, family_pairs(model)[:1], names)
    whole, scores = metric(batch, plain.run(batch.clean)), []
    for name in names:
        source, _, destination = name.partition("->")
        clean, corrupted = (plain.written(t, source) for t in (batch.clean, batch.corrupted))
        logits = plain.patched(batch.clean, destination, clean - corrupted)
        scores.append(whole - metric(batch, logits))
    assert np.abs(scores).max() > 1e-3
    np.testing.assert_allclose(exact.values, scores, **SINGLE)


def test_an_exact_score_is_the_drop_of_the_full_circuit_without_the_edge(model, batch) -> None:
    for wiring in wirings(model):
        names = sample(wiring, 2)
        exact = patch_chosen_edges(model, family_pairs(model)[:1], names, kv=wiring.kv)
        runner = CircuitRunner(model, batch, wiring)
        whole, drops = metric(batch, runner.clean_logits), []
        for name in names:
            kept = np.arange(wiring.n_edges) != wiring.edge_index(name)
            drops.append(whole - metric(batch, runner.run(Circuit(wiring, kept))))
        np.testing.assert_allclose(exact.values, drops, **SINGLE)


def test_a_node_that_nothing_reads_changes_nothing(model, batch) -> None:
    wiring = model.wiring()
    matrix = wiring.mask.copy()
    matrix[wiring.head_src(0, 2)] = False
    without = matrix.copy()
    without[:, wiring.attn_dst(0) + 2] = (
        False  # its query's input; keys and values may be read by others
    )
    runner = CircuitRunner(model, batch, wiring)
    torch.testing.assert_close(runner.run(without), runner.run(matrix), **SINGLE)


@cache
def nearer_model(family: str, share: float) -> Model:
    """A model whose two subjects are so alike that corrupting changes little."""
    model = family_model(family)
    pair, table = family_pairs(model)[0], model.bridge.embed.weight
    with torch.no_grad():
        for clean, corrupted in zip(pair.clean.ids, pair.corrupted.ids, strict=True):
            table[corrupted] = torch.lerp(table[clean], table[corrupted], share)
    return model


@pytest.mark.slow
def test_as_the_corruption_shrinks_attribution_becomes_exact(family) -> None:
    errors = []
    for model in (nearer_model(family, 0.05), nearer_model(family, 0.005)):
        pairs, relative = family_pairs(model)[:1], []
        for wiring in wirings(model):
            names = sample(wiring, 3)
            exact = patch_chosen_edges(model, pairs, names, kv=wiring.kv).values
            scores = attribute(model, pairs, Scoring(method=Locator.EAP, kv=wiring.kv))
            estimated = np.array([scores[name] for name in names])
            relative.append(np.abs(estimated - exact).max() / np.abs(exact).max())
        errors.append(max(relative))
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 3


def test_integrated_gradients_of_the_input_edges_sum_to_the_metric_change(family) -> None:
    """On a short path, where few points are enough and no other experts are chosen."""
    model = nearer_model(family, 0.05)
    pairs = family_pairs(model)[:1]
    (batch,) = batches(pairs, 1)
    scores = attribute(model, pairs, Scoring(steps=5))
    runs = model.last_logits(batch.clean), model.last_logits(batch.corrupted)
    change = metric(batch, runs[0]) - metric(batch, runs[1])
    assert scores.matrix()[0].sum() == pytest.approx(change, rel=1e-2, abs=1e-5)


def test_contributions_and_constant_are_the_logit_difference(model) -> None:
    found = direct_logit_attribution(model, family_pairs(model))
    total = found.contributions.sum(1) + found.constant
    np.testing.assert_allclose(total, found.logit_difference, **SINGLE)


def test_what_a_head_writes_split_by_where_it_reads_is_what_it_writes(model) -> None:
    pair = family_pairs(model)[:1]
    found = read_heads(model, pair, [pair[0].answer, pair[0].foil])
    direct = direct_logit_attribution(model, pair).contributions[0]
    wiring = model.wiring()
    heads = [[wiring.head_src(x, h) for h in range(model.n_heads)] for x in range(model.n_layers)]
    np.testing.assert_allclose(found.answer_gain[0].sum(-1), direct[np.array(heads)], **SINGLE)
    np.testing.assert_allclose(found.attention[0].sum(-1), 1, **SINGLE)


def test_every_head_is_labelled_or_not_and_its_label_checked(model) -> None:
    pairs = [pair for pair in family_pairs(model) for _ in range(2)]
    found = head_roles(model, pairs, criteria=RoleCriteria(resamples=20))
    assert len(found.heads) == model.n_layers * model.n_heads
    labelled = [head for head in found.heads if head.role != Role.NONE]
    assert all(head.check is not None for head in labelled)
    assert np.isfinite([head.answer_gain.value for head in found.heads]).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
def test_folding_weights_leaves_scores_unchanged(family, model) -> None:
    pairs, scoring = family_pairs(model), Scoring(method=Locator.EAP)
    folded = family_model(family)
    folded.bridge.enable_compatibility_mode(disable_warnings=True)
    for parameter in folded.bridge.parameters():
        parameter.requires_grad_(False)
    raw, found = (attribute(each, pairs, scoring).values for each in (model, folded))
    np.testing.assert_allclose(found, raw, rtol=1e-3, atol=1e-4 * np.abs(raw).max())


def test_the_lens_ends_at_the_models_own_output(model, batch) -> None:
    prompt = family_pairs(model)[0].clean
    lens = logit_lens(model, prompt, {"three": 3, "five": 5})
    expected = model.last_logits(batch.clean)[0].softmax(-1)[[3, 5]]
    np.testing.assert_allclose(lens.probability[-1, 0], expected.numpy(), **SINGLE)


def test_tracing_equals_the_plain_loop(model) -> None:
    pair = family_pairs(model)[0]
    text = pair.text
    found = trace(model, text.clean, text.subject, text.answer, samples=2, window=2)
    noise = subject_noise(model, len(found.subject), 3.0, 2, 0)
    ids, places = torch.tensor(pair.clean.ids), [found.subject.start, len(pair.clean) - 1]
    for kind in TraceKind:
        plain = plain_trace(model, ids, found.subject, found.answer_token, noise, kind, 2, places)
        for place, values in plain.items():
            ours = found.probabilities[kind][:, place]
            np.testing.assert_allclose(ours, values.numpy(), rtol=1e-3, atol=1e-5)


def test_restoring_every_edge_brings_the_other_models_logits(family, model, batch) -> None:
    other = family_model(family)
    name = next(
        n for n in other.parameter_names if (f".{1}." in n and "mlp" in n) or "fc2.weight" in n
    )
    expected = model.last_logits(batch.clean)
    with torch.no_grad():
        other.set_parameter(name, 1.3 * other.parameter(name))
    assert not torch.allclose(other.last_logits(batch.clean), expected, rtol=1e-3)
    old, n_edges = source_outputs(model, batch.clean), other.wiring().n_edges
    sets = [np.ones(n_edges, dtype=bool), np.zeros(n_edges, dtype=bool)]
    restored = run_restored(other, batch.clean, old, sets)
    torch.testing.assert_close(restored[0], expected, **SINGLE)
    torch.testing.assert_close(restored[1], other.last_logits(batch.clean), **SINGLE)


def test_rome_writes_what_makes_the_model_say_the_target(family) -> None:
    model = family_model(family, torch.float32)
    request, prompt = (
        EditRequest("The capital of {} is", "France", "Oslo"),
        "The capital of France is",
    )
    settings = RomeSettings((0,), ValueSettings(steps=5), ContextSettings(copies=0))
    generator = torch.Generator().manual_seed(0)
    if model.architecture.mlp_output is None:
        with pytest.raises(OptionError, match="mixture of experts"):
            find_moments(model, (0,), "identity")
        return
    moments = find_moments(model, (0,), "identity")
    delta, details = rome(model, [request], [0], settings, moments, generator)
    tokens = torch.tensor([model.tokenizer.encode(prompt).ids])
    target, at = model.tokenizer.first_token(prompt, "Oslo"), int(tokens.shape[1]) - 2

    def written() -> torch.Tensor:
        seen: list[torch.Tensor] = []
        hook = (taps.mlp_raw(0), lambda value, hook: seen.append(value[0, at].clone()))
        model.last_logits(tokens, [hook])
        return seen[0]

    before = written(), model.last_logits(tokens)
    with delta.applied(model):
        change = written() - before[0]

    def add(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        value[:, at] += change
        return value

    found = model.last_logits(tokens, [(taps.mlp_raw(0), add)])[0].softmax(-1)[target].item()
    first, *_, last = details["target_probability_in_contexts"]
    assert found == pytest.approx(last, rel=1e-3)
    assert last > first
    assert change.norm().item() == pytest.approx(details["value_norm"], rel=1e-3)
    assert torch.equal(model.last_logits(tokens), before[1])


def test_what_is_saved_is_loaded_again_with_its_circuit(family, tmp_path: Path) -> None:
    model = family_model(family, torch.float32)
    tokens = torch.tensor([[0, 2, 3, 4, 5]])
    model.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    torch.testing.assert_close(again.last_logits(tokens), model.last_logits(tokens))
    with torch.no_grad():
        hf = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        torch.testing.assert_close(hf(tokens).logits[:, -1], model.last_logits(tokens), **SINGLE)
    wiring = model.wiring()
    circuit = Circuit(wiring, np.arange(wiring.n_edges) % 3 == 0)
    circuit.save(tmp_path / "c.kc.safetensors")
    save_eap_ig(circuit, tmp_path / "c.json")
    for read in (Circuit.load(tmp_path / "c.kc.safetensors"), load_eap_ig(tmp_path / "c.json")):
        assert read.wiring == wiring
        np.testing.assert_array_equal(read.kept, circuit.kept)
    parallel = "true" if wiring.parallel else "false"
    assert f'"parallel_attn_mlp":{parallel}' in (tmp_path / "c.json").read_text().replace(" ", "")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "falcon", "phi3"])
def test_a_joint_weight_changed_in_place_is_what_the_model_runs_on(family: str) -> None:
    model, tokens = family_model(family, torch.float32), torch.tensor([[0, 2, 3, 4, 5]])
    assert model.architecture.fused is not None
    before = model.last_logits(tokens)
    for path in filter(None, (model.architecture.fused[0], model.architecture.fused_mlp)):
        names = [n for n in model.parameter_names if n.startswith(f"{path.format(0)}.")]
        assert names
        for name in names:
            model.parameter(name).mul_(1.5).add_(0.1)
        after = model.last_logits(tokens)
        assert (after - before).abs().max() > 1e-3
        before = after
        expected = model.to_hf()(tokens).logits[:, -1]
        torch.testing.assert_close(after, expected, **SINGLE)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("falcon", "alibi", True),
        ("falcon", "new_decoder_architecture", True),
        ("opt", "do_layer_norm_before", False),
        ("opt", "word_embed_proj_dim", 8),
        ("phi", "qk_layernorm", True),
        ("stablelm", "qk_layernorm", True),
        ("gemma3_text", "use_bidirectional_attention", True),
    ],
)
def test_a_variant_that_is_not_covered_is_refused_by_name(family, field, value) -> None:
    config = family_hf(family).config
    setattr(config, field, value)
    with pytest.raises(UnsupportedArchitectureError, match=f"sets {field}={value}"):
        check_architecture(config, "somebody/model")
