"""Neurons of MLPs: their scores sum to the MLP's, and patching is what a plain run does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import knowledge_circuits as kc
from circuits.base.errors import OptionError, UnsupportedArchitectureError
from circuits.base.intervals import bootstrap, bootstrap_ratios
from circuits.base.options import build
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.model import taps
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from experiments.cli.main import main
from locate.examples import Examples
from locate.neurons.find import find_neurons, mlp_layers
from locate.neurons.options import METHODS, NeuronSearch
from locate.neurons.patching import patch_neurons
from locate.neurons.report import NeuronReport
from locate.neurons.scoring import NeuronScores, directions, score_neurons
from locate.search import Scoring
from tests import results
from tests.families import FAMILIES, family_model, family_pairs
from tests.forms import check_form
from tests.tiny import equal_length_pairs, tiny_model
from viz.screen.neurons import neurons_figure

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


@pytest.mark.slow
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


# --- what is found and told ----------------------------------------------------------------------


def few_matter(model: Model, layer: int, few: list[int]) -> None:
    """All but a few neurons of an MLP write nothing."""
    name = model.mlp_output_name(layer)
    weight = model.parameter(name).clone()
    rows = weight if model.is_transposed(name) else weight.T
    rows[[at for at in range(len(rows)) if at not in few]] = 0
    model.set_parameter(name, weight)


def asked_of(model: Model, held_out: bool = True) -> Examples:
    pairs = tuple(equal_length_pairs(model))
    assert len(pairs) > 2
    return Examples("capital", pairs[:2], pairs[2:] if held_out else ())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_neurons_that_alone_write_are_found_and_carry_all(kind: str) -> None:
    model, few = tiny_model(kind), [3, 11, 40]
    few_matter(model, 1, few)
    search = build(NeuronSearch, {"sizes": (1, 3, 8), "n_random": 2})
    report = find_neurons(model, asked_of(model), ["m1"], search)
    assert sorted(report.kept[0, :3].tolist()) == few
    one, three, eight = report.shares("m1")
    assert three.share.value == pytest.approx(1, abs=1e-4)
    assert eight.share.value == pytest.approx(1, abs=1e-4)
    assert abs(one.share.value - 1) > 0.01
    assert abs(three.random.value) < 0.9
    assert report.scores[:, 0].sum(-1) == pytest.approx(report.nodes[:, 0], abs=1e-3)


def test_what_is_told_is_of_the_pairs_that_did_not_choose() -> None:
    model = tiny_model("gpt2")
    examples, search = asked_of(model), build(NeuronSearch, {"sizes": (2, 5)})
    report = find_neurons(model, examples, (), search)
    layers = range(model.n_layers)
    chose = score_neurons(model, examples.pairs, layers, search.scoring)
    assert np.allclose(report.found, chose.mean)
    assert (report.kept == np.argsort(-np.abs(chose.mean), -1)[:, :5]).all()
    kept = {layer: report.kept[layer].tolist() for layer in layers}
    tested = score_neurons(model, examples.held_out, layers, search.scoring, kept)
    assert np.allclose(report.scores, tested.per_pair)
    clean, patched = patch_neurons(model, examples.held_out, {1: [kept[1][:2], None]})
    assert np.allclose(report.carried[:, 1, 0], clean - patched[1][:, 0], atol=1e-4)
    assert np.allclose(report.costs[:, 1], clean - patched[1][:, 1], atol=1e-4)
    clean, patched = patch_neurons(model, examples.pairs, {1: [None]})
    lost = (clean - patched[1][:, 0]).mean()
    assert report.found_costs[1] == pytest.approx(lost, abs=1e-4)
    assert report.provenance["measured_on"] == "other pairs"  # of the same subjects
    same = find_neurons(model, asked_of(model, held_out=False), ["m1"], search)
    assert same.provenance["measured_on"] == "pairs that found it"
    assert same.found_costs == pytest.approx(same.costs.mean(0))


@torch.no_grad()
def test_a_neurons_tokens_are_those_that_its_change_raises_most() -> None:
    signs = set()
    for kind in ("gpt2", "llama"):
        model = tiny_model(kind)
        report = find_neurons(model, asked_of(model), ["m2"], build(NeuronSearch, {"sizes": (9,)}))
        for place, each in enumerate(report.neurons("m2")):
            change = float(report.changes[:, 0, place].mean())
            signs.add(change > 0)
            step = np.sign(change) * model.mlp_output_matrix(2)[:, each.index]
            if not model.uses_rms_norm:
                step = step - step.mean()
            raised = model.unembedding() @ (step * model.last_norm.gain)
            best = raised.topk(5).indices.tolist()
            assert each.reading.writes == tuple(map(model.tokenizer.token_string, best))
    assert signs == {True, False}


def test_a_neuron_does_most_where_its_part_is_largest() -> None:
    model = tiny_model("gpt2")
    pairs = equal_length_pairs(model)
    found = scores(model, pairs, method="eap")
    for row, pair in enumerate(pairs):
        assert (found.places[row] >= pair.first_difference).all()
        name = taps.mlp_keys(2)
        with torch.no_grad():
            clean, corrupted = (values(model, p.ids, name) for p in (pair.clean, pair.corrupted))
        # The last layer's MLP reaches the logits at the last position alone.
        assert (found.places[row, 2] == len(pair.clean) - 1).all()
        assert np.allclose(found.changes[row, 2], (clean - corrupted)[-1], atol=1e-5)


def test_mlps_that_score_most_are_tested_unless_they_are_named() -> None:
    model = tiny_model("gpt2")
    asked, small = asked_of(model), {"sizes": (2,), "n_random": 1}
    every = find_neurons(model, asked, (), build(NeuronSearch, small))
    assert every.mlps == ("m0", "m1", "m2")
    order = np.argsort(-np.abs(every.found.sum(-1)))
    two = find_neurons(model, asked, (), build(NeuronSearch, {**small, "n_mlps": 2}))
    assert two.mlps == tuple(f"m{at}" for at in sorted(order[:2]))
    assert two.provenance["scored_mlps"] == 3
    assert np.allclose(two.costs, every.costs[:, sorted(order[:2])])
    deep = tiny_model("gpt2", layers=10)
    assert len(find_neurons(deep, asked, (), build(NeuronSearch, small)).mlps) == 8
    names = [f"m{layer}" for layer in range(10)]
    assert len(find_neurons(deep, asked, names, build(NeuronSearch, small)).mlps) == 10


def test_circuits_and_names_say_which_mlps() -> None:
    model = tiny_model("gpt2")
    circuit = Circuit.full(model.wiring()).without("m0")
    assert mlp_layers(model, circuit) == [1, 2]
    assert mlp_layers(model, ["m2", "m0", "m2"]) == [0, 2]
    assert mlp_layers(model, ()) == [0, 1, 2]
    with pytest.raises(OptionError, match="holds no MLP"):
        mlp_layers(model, circuit.without("m1", "m2"))
    with pytest.raises(OptionError, match=r"'a0\.h1' is no MLP"):
        mlp_layers(model, ["a0.h1"])
    with pytest.raises(OptionError, match="the circuit is for"):
        mlp_layers(tiny_model("llama"), circuit)


@pytest.mark.parametrize("verb", [kc.neurons, kc.roles])
def test_a_circuit_that_is_looked_into_is_held_against_the_model(
    verb: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("gpt2")
    full, pairs = Circuit.full(model.wiring()), [pair.text for pair in equal_length_pairs(model)]

    def look(**origin: Any) -> Any:
        return verb(model, pairs, replace(full, provenance=origin), known_only=False)

    look()
    assert not caplog.records
    look(weights_sha256="of others")
    assert "whose weights differ" in caplog.text
    with pytest.raises(OptionError, match="another tokenizer"):
        look(tokenizer_sha256="of another")
    with pytest.raises(OptionError, match=r"without a BOS token; leave `bos` out$"):
        verb(model, pairs, replace(full, provenance={"bos": False}), bos=True)


def test_a_head_is_no_file_of_a_circuit() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(OptionError, match=r"'a1\.h1' is no MLP"):
        kc.neurons(model, [each.text for each in equal_length_pairs(model)], "a1.h1")


def told() -> NeuronReport:
    """Of two MLPs the first costs more on the pairs that chose, and needs more neurons."""
    ones = np.ones((9, 2))
    origin = {"model": "tiny", "relation": "capitals", "metric": "logit-diff"}
    return replace(
        results.neurons(),
        costs=ones * [1, 4],
        found_costs=np.array([2.0, 1.0]),
        found_carried=np.array([[0.1, 1.4], [0.9, 0.9]]),
        carried=np.stack([ones * [0.2, 1.2], ones * [0.7, 0.9]], -1),
        random=np.stack([ones * 0.04, ones * 0.02], -1),
        provenance=origin | {"measured_on": "other subjects"},
    )


def test_the_sentence_follows_the_numbers_and_others_choose_what_it_names() -> None:
    report = told()
    assert report.order == ["m0", "m1"]
    assert report.sparsest == "m1"
    assert [report.fewest(mlp) for mlp in report.mlps] == [1, 0]
    assert report.says() == (
        "3 of 5 neurons of m0 carry 70 % [70, 70] of what it does in tiny (capitals, subjects they "
        "were not found on), 3 random ones 2 % [2, 2]; patching m0 costs 1.00 [1.00, 1.00] of "
        "logit-diff; where they were chosen, 1 of m1 carried half of it, fewest of 2 MLPs: here "
        "30 % [30, 30], 1 random one 1 % [1, 1]."
    )
    assert replace(report, found_costs=np.array([2.0, 0.09])).sparsest == "m0"
    unreached = replace(report, found_carried=np.zeros((2, 2)))
    assert unreached.sparsest is None
    assert [unreached.fewest(mlp) for mlp in report.mlps] == [1, 1]
    none = replace(report, costs=np.linspace(-1, 1, 18).reshape(9, 2) * [1, 0])
    assert none.says().startswith("No evidence that neurons of m0 matter (capitals, ")
    assert not np.isfinite(none.shares("m1")[0].share.value)


def test_a_ratio_of_means_is_resampled_jointly() -> None:
    rng = np.random.default_rng(0)
    below = rng.normal(3, 1, (40, 2))
    above = np.stack([0.5 * below[:, 0], rng.normal(1, 1, 40)], 1)
    exact, loose = bootstrap_ratios(above, below, 1e-6)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    plain = bootstrap(
        lambda a, b, axis: a.mean(axis) / b.mean(axis), above[:, 1], below[:, 1], resamples=4000
    )
    assert loose.value == pytest.approx(plain.value)
    assert (loose.low, loose.high) == pytest.approx((plain.low, plain.high), abs=0.03)
    assert not np.isfinite(bootstrap_ratios(above, 0 * below, 1e-6)[0].value)
    assert not np.isfinite(bootstrap_ratios(above[:7], below[:7], 1e-6)[0].low)


def test_a_report_whose_parts_do_not_fit_is_refused() -> None:
    report = results.neurons()
    arrays, metadata = report.arrays(), report.metadata()
    for changed in (
        {"kept": report.kept + 3},
        {"kept": report.kept - 2},
        {"scores": report.scores[:, :1]},
        {"found_costs": report.found_costs[:1]},
        {"random": report.random[..., :1]},
        {"nodes": report.nodes[:0]},
    ):
        with pytest.raises(OptionError):
            NeuronReport.from_arrays(arrays | changed, metadata)
    for other in ({"sizes": [1, 0]}, {"readings": []}, {"mlps": ["m0"]}):
        with pytest.raises(OptionError):
            NeuronReport.from_arrays(arrays, metadata | other)
    assert NeuronReport.from_arrays(arrays, metadata).rows() == report.rows()


def test_the_picture_shows_what_matters_beside_random_neurons() -> None:
    report = told()
    figure = neurons_figure(report)
    named = [trace.name for trace in figure.data if trace.name]
    assert named == ["random ones", "m0", "random ones", "m1"]
    first = next(trace for trace in figure.data if trace.name)
    assert first.y == tuple(each.random.value for each in report.shares("m0"))
    assert len([trace for trace in figure.data if trace.fill]) == 2
    one = neurons_figure(replace(report, costs=np.ones((9, 2)) * [0, 1]))
    assert [trace.name for trace in one.data if trace.name] == ["random ones", "m1"]
    with pytest.raises(OptionError, match="there is no share"):
        neurons_figure(replace(report, costs=np.zeros((9, 2))))


@pytest.mark.slow
def test_the_command_writes_what_it_says(capsys, tmp_path: Path) -> None:
    words = ["neurons", "-m", "facts-gpt2", "-r", "country_capital", "--n-pairs", "8"]
    small = [*words, "--mlp", "m2", "--size", "4", "--size", "64", "--random", "2"]
    assert main([*small, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    check_form(found)
    stored = kc.open(tmp_path / "neurons.kc.safetensors")
    assert found["says"] == stored.says()
    assert found["mlps"] == json.loads(json.dumps(stored.records()))
    assert len((tmp_path / "neurons.csv").read_text().splitlines()) == 1 + 64
    assert stored.provenance["found_on"] == 8
    best = stored.shares("m2")[1]
    assert best.share.low > best.random.high
    door = kc.neurons("facts-gpt2", "country_capital", "m2", n_pairs=8, sizes=(4, 64), n_random=2)
    assert np.allclose(door.carried, stored.carried)
    for more, error in (
        (["--mlp", "m9"], "'m9' is no MLP of 'facts-gpt2'"),
        (["--method", "acdc"], "neurons get scores by --method eap"),
        (["--method", "gim", "--steps", "3"], "--steps"),
        (["--circuit", "x.kc.safetensors", "--mlp", "m1"], "--circuit names the MLPs already"),
    ):
        assert main([*words, *more]) == 2
        assert error in capsys.readouterr().err
