"""Scores and circuits by edge and token span: sums, runs, selection, files, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation, KeyValue, Metric, Selection
from circuits.base.errors import CircuitFileError, OptionError
from circuits.base.options import build
from circuits.facts.batches import batches
from circuits.facts.pairs import PromptPair, TokenPair, encode_pairs
from circuits.facts.spans import batch_places, named_spans, span_places
from circuits.files.exchange import save_eap_ig
from circuits.graph.ablation import source_constants
from circuits.graph.chance import inflated, same_shape
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.evaluate import evaluate, run_circuits
from circuits.graph.running import CircuitRunner
from circuits.graph.scores import EdgeScores
from circuits.graph.select import greedy, prune, random_circuit, select, top_n
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.edges import runs
from locate.edges.eap import attribute
from locate.edges.locators import Locator
from locate.edges.room import Share
from locate.edges.score import score_edges
from locate.search import Scoring
from tests.families import family_hf, family_model, family_pairs
from tests.oracles import plain_circuit_run, plain_eap
from tests.plain_hf import PlainModel
from tests.tiny import equal_length_pairs, tiny_model

KINDS = ("gpt2", "llama")
FACT_SPANS = ("subject", "relation", "last", "others")
ENSEMBLE = {"method": "ensemble", "spans": "auto"}
SEVERAL = ("gpt2", "llama", "gpt_neox", "falcon", "gemma2", "gemma3_text", "olmo2", "mixtral")
"""Families of every wiring: shared keys, parallel blocks, norms that heads share, experts."""
SINGLE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def pairs(model: Model) -> list[TokenPair]:
    return equal_length_pairs(model)


def wirings(model: Model, pairs: list[TokenPair]) -> list[Wiring]:
    spans = named_spans(pairs, "auto")
    return [model.wiring(kv).with_spans(spans) for kv in KeyValue]


def some(wiring: Wiring, seed: int, share: float = 0.5) -> Circuit:
    return Circuit(wiring, np.random.default_rng(seed).random(wiring.n_edges) < share)


# --- where spans are -----------------------------------------------------------------------------


def words(pair: TokenPair, spans: tuple[str, ...]) -> dict[str, list[str]]:
    places = span_places(pair, spans)
    return {
        name: [t.strip(" ▁") for t, at in zip(pair.clean.tokens, places, strict=True) if at == n]
        for n, name in enumerate(spans)
    }


def test_subject_relation_last_and_others_are_each_position_once() -> None:
    model = family_model("llama")
    pair = replace(family_pairs(model)[0], start=2)
    found = words(pair, FACT_SPANS)
    assert sum(map(len, found.values())) == len(pair.clean)
    subject = pair.clean.tokens[pair.subject.start : pair.subject.stop]
    assert found["subject"] == [token.strip(" ▁") for token in subject]
    assert found["last"] == [pair.clean.tokens[-1].strip(" ▁")]
    assert len(found["others"]) == 2  # what stands before the question
    assert len(found["relation"]) == len(pair.clean) - 3 - len(subject)


def test_own_spans_come_first_and_the_last_token_is_always_alone() -> None:
    model = tiny_model("gpt2")
    pair = PromptPair(
        "The capital of France is",
        "The capital of Japan is",
        "Paris",
        "Tokyo",
        subject="France",
        spans=(("asked", "capital of France", 1), ("end", "France is", 1)),
    )
    (encoded,) = encode_pairs(model.tokenizer, [pair])
    spans = named_spans([encoded], "auto")
    assert spans == ("subject", "relation", "asked", "end", "last", "others")
    found = words(encoded, spans)
    assert "".join(found["asked"]) == "capitalofFrance"
    assert found["last"] == ["is"]
    assert found["end"] == []
    assert found["subject"] == []
    assert named_spans([encoded], "end, last") == ("end", "last", "others")


@pytest.mark.parametrize(
    ("asked", "said"),
    [("nowhere", "no pair has a span 'nowhere'"), ("a,a", "twice"), ("a@b", "a word without")],
)
def test_spans_that_are_not_there_are_refused_in_a_line(asked: str, said: str) -> None:
    pairs = equal_length_pairs(tiny_model("gpt2"))
    with pytest.raises(OptionError, match=said):
        Scoring(spans=asked).wiring(tiny_model("gpt2"), pairs)


def test_pairs_with_nothing_to_tell_apart_are_refused() -> None:
    model = tiny_model("gpt2")
    pairs = [replace(pair, subject=None) for pair in equal_length_pairs(model)]
    with pytest.raises(OptionError, match="nothing to tell apart"):
        attribute(model, pairs, spans="auto")
    circuit = Circuit.full(model.wiring().with_spans(FACT_SPANS))
    with pytest.raises(OptionError, match="no pair has one of them"):
        run_circuits(model, pairs, [circuit])


@pytest.mark.parametrize("method", ["acdc", "exact", "atp-star"])
def test_methods_that_cannot_tell_spans_apart_refuse_before_any_pass(method: str) -> None:
    with pytest.raises(OptionError, match=f"not by {method}"):
        build(Scoring, {"method": method, "spans": "auto"})
    if method == "atp-star":
        with pytest.raises(OptionError, match="not by atp-star"):
            build(Scoring, ENSEMBLE | {"options": {"of": ("eap", method)}})


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", list(KeyValue))
@pytest.mark.parametrize("method", ["eap", "eap-ig", "relp", "gim"])
@pytest.mark.slow
def test_the_scores_without_spans_are_the_sums_over_spans(model, pairs, method, kv) -> None:
    asked = build(Scoring, {"method": method, "kv": kv, "steps": 2})
    whole = attribute(model, pairs, asked, keep_pairs=True)
    apart = attribute(model, pairs, replace(asked, spans="auto"), keep_pairs=True, batch_size=2)
    assert apart.wiring.spans == FACT_SPANS
    assert apart.values.size == 4 * whole.values.size
    blind, size = apart.blind(), np.abs(whole.values).max()
    assert blind.wiring == whole.wiring
    assert "spans" not in blind.provenance
    np.testing.assert_allclose(blind.values, whole.values, atol=1e-5 * size)
    np.testing.assert_allclose(blind.per_pair, whole.per_pair, atol=1e-5 * size)
    parts = apart.values.reshape(4, -1)
    used = [np.abs(part).max() > 1e-3 * size for part in parts]
    assert used == [True, True, True, False]  # before the first difference there is no score


def test_sums_hold_for_constants_and_for_parts_of_a_prompt_at_a_time(
    model, pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Scoring(Locator.EAP, ablation=Ablation.MEAN)
    whole = attribute(model, pairs, asked)
    apart = attribute(model, pairs, replace(asked, spans="auto"))
    np.testing.assert_allclose(apart.blind().values, whole.values, atol=1e-5)
    one = model.d_model * 4 * (model.wiring().n_src + model.wiring().n_attn + 1)
    monkeypatch.setattr(runs, "_shares", lambda *_: Shares(Share(3, buffer=2 * one, split=True)))
    split = attribute(model, pairs, replace(asked, spans="auto"))
    np.testing.assert_allclose(split.values, apart.values, atol=1e-5)


class Shares(dict):
    """The same share for every length."""

    def __init__(self, share: Share) -> None:
        super().__init__(dict.fromkeys(range(64), share))


def test_a_score_in_a_span_is_the_plain_sum_over_its_positions(model, pairs) -> None:
    for pair in pairs[:3]:
        ours = attribute(model, [pair], method="eap", spans="auto")
        by_position = plain_eap(model, [pair], by_position=True).numpy()
        places = span_places(pair, FACT_SPANS)
        theirs = np.stack([by_position[places == n].sum(0) for n in range(4)])
        expected = ours.wiring.from_matrix(theirs)
        np.testing.assert_allclose(ours.values, expected, atol=1e-4 * np.abs(expected).max())


def test_grouped_scores_by_span_are_sums_of_ungrouped_ones(pairs) -> None:
    model = tiny_model("llama")
    asked = Scoring(Locator.EAP, spans="auto")
    grouped = attribute(model, equal_length_pairs(model), asked)
    single = attribute(model, equal_length_pairs(model), replace(asked, kv=KeyValue.PER_QUERY_HEAD))
    assert single.grouped().wiring == grouped.wiring
    np.testing.assert_allclose(single.grouped().values, grouped.values, atol=1e-5)


def test_an_ensemble_tells_spans_apart(model, pairs) -> None:
    asked = build(Scoring, ENSEMBLE | {"options": {"of": ("eap", "relp")}})
    found = score_edges(model, pairs, asked)
    assert isinstance(found, EdgeScores)
    assert found.wiring.spans == FACT_SPANS


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SEVERAL)
@pytest.mark.parametrize("ablation", [Ablation.PATCH, Ablation.MEAN])
def test_the_full_circuit_is_the_clean_run_and_an_edge_kept_in_all_spans_is_an_edge_kept(
    family: str, ablation: Ablation
) -> None:
    model = family_model(family)
    pairs = family_pairs(model)
    constants = None
    if ablation.is_constant:
        constants = source_constants(model, pairs, ablation)
    for batch in batches(pairs, 2, model):
        wiring = model.wiring().with_spans(named_spans(pairs, "auto"))
        places = batch_places(pairs, batch, wiring.spans)
        plain = CircuitRunner(model, batch, wiring.with_spans(), ablation, constants)
        runner = CircuitRunner(model, batch, wiring, ablation, constants, spans=places)
        clean = model.last_logits(batch.clean)
        torch.testing.assert_close(runner.run(Circuit.full(wiring)), clean, **SINGLE)
        if ablation is Ablation.PATCH:
            corrupted = model.last_logits(batch.corrupted)
            torch.testing.assert_close(runner.run(Circuit.empty(wiring)), corrupted, **SINGLE)
        for seed, share in enumerate((0.2, 0.5, 0.9)):
            blind = some(wiring.with_spans(), seed, share)
            apart = runner.run(blind.everywhere(wiring.spans))
            torch.testing.assert_close(apart, plain.run(blind), rtol=1e-9, atol=1e-9)
            # A head that nothing reaches still counts in a shared norm, and what a constant is
            # mixed to is no constant: there pruning is a choice, with spans and without.
            shared = model.architecture.is_joint or model.architecture.normed_after
            if ablation is Ablation.PATCH and not shared:
                circuit = some(wiring, seed, share)
                pruned = runner.run(prune(circuit))
                torch.testing.assert_close(pruned, runner.run(circuit), **SINGLE)


@pytest.mark.parametrize("family", SEVERAL)
def test_an_edge_cut_in_a_span_is_what_hugging_faces_model_loses_at_its_positions(
    family: str,
) -> None:
    model = family_model(family)
    pairs = family_pairs(model)[:1]
    (batch,) = batches(pairs, 1, model)
    wiring = model.wiring().with_spans(named_spans(pairs, "auto"))
    places = batch_places(pairs, batch, wiring.spans)
    runner = CircuitRunner(model, batch, wiring, spans=places)
    plain = PlainModel(family_hf(family), model.n_heads, model.d_head)

    def metric(logits: torch.Tensor) -> float:
        asked = batch.answer, batch.foil
        return float(evaluate_metric(Metric.LOGIT_DIFFERENCE, logits, *asked))

    order, drops, losses = np.random.default_rng(3).permutation(wiring.n_edges), [], []
    for edge in order[wiring.edge_dst[order] != wiring.logits_dst][:12]:
        source, _, destination = wiring.edge_name(edge).partition("@")[0].partition("->")
        here = torch.from_numpy(places[0] == wiring.edge_span[edge])[None, :, None]
        clean, corrupted = (plain.written(t, source) for t in (batch.clean, batch.corrupted))
        logits = plain.patched(batch.clean, destination, (clean - corrupted) * here)
        losses.append(metric(plain.run(batch.clean)) - metric(logits))
        kept = np.arange(wiring.n_edges) != edge
        drops.append(metric(runner.clean_logits) - metric(runner.run(Circuit(wiring, kept))))
    assert np.abs(losses).max() > 1e-4
    np.testing.assert_allclose(drops, losses, **SINGLE)


@pytest.mark.parametrize("kv", list(KeyValue))
@pytest.mark.parametrize("ablation", [Ablation.PATCH, Ablation.ZERO])
def test_a_circuit_of_spans_runs_as_a_plain_implementation_does(model, pairs, kv, ablation) -> None:
    wiring = model.wiring(kv).with_spans(FACT_SPANS)
    constants = source_constants(model, pairs, ablation) if ablation.is_constant else None
    for batch in batches(pairs, 8, model):
        places = batch_places(pairs, batch, wiring.spans)
        runner = CircuitRunner(model, batch, wiring, ablation, constants, spans=places)
        for seed, share in enumerate((0.3, 0.8)):
            circuit = some(wiring, seed, share)
            plain = plain_circuit_run(model, batch, circuit, constants, places)
            torch.testing.assert_close(runner.run(circuit), plain, rtol=1e-3, atol=1e-4)


def test_an_evaluation_of_spans_takes_pairs_of_several_lengths(model, pairs) -> None:
    wiring = model.wiring().with_spans(FACT_SPANS)
    circuit = some(wiring, 0, 0.6)
    drawn = [random_circuit(wiring, circuit.n_edges, np.random.default_rng(0))]
    together = evaluate(model, pairs, circuit, random_circuits=drawn, resamples=10)
    alone = [run_circuits(model, [pair], [circuit]).circuits[0].metric[0] for pair in pairs]
    assert together.circuit.value == pytest.approx(np.mean(alone), rel=1e-4)
    assert len({len(pair.clean) for pair in pairs}) > 1


# --- selection -----------------------------------------------------------------------------------


def test_selection_ranks_edges_and_spans_and_pruning_leaves_paths_only(model, pairs) -> None:
    scores = attribute(model, pairs, method="eap", spans="auto")
    n = 30
    chosen = top_n(scores, n)
    assert chosen.n_edges == n
    least = np.abs(scores.values[chosen.kept]).min()
    assert least >= np.abs(scores.values[~chosen.kept]).max()
    for kept in (select(scores, Selection.TOP, n), select(scores, Selection.GREEDY, n)):
        assert prune(kept) == kept
        assert all(
            name.partition("@")[2] == "last" for name in kept.edge_names() if "->logits" in name
        )
    assert greedy(scores, n).n_edges == n


def test_pruning_follows_keys_and_values_into_other_spans_and_never_back_from_the_last() -> None:
    wiring = Wiring(2, 2, 2).with_spans(("subject", "last", "others"))

    def circuit(*names: str) -> Circuit:
        kept = np.zeros(wiring.n_edges, dtype=bool)
        kept[[wiring.edge_index(name) for name in names]] = True
        return Circuit(wiring, kept)

    path = circuit("input->m0@subject", "m0->a1.h0<v>@subject", "a1.h0->logits@last")
    assert prune(path) == path
    broken = circuit("input->m0@subject", "m0->a1.h0<q>@others", "a1.h0->logits@last")
    assert prune(broken).n_edges == 0
    back = circuit(
        "input->a0.h0<v>@last", "a0.h0->a1.h0<v>@subject", "a1.h0->logits@last", "input->m0@last"
    )
    assert prune(back).n_edges == 0


@pytest.mark.parametrize("kv", list(KeyValue))
def test_random_circuits_of_spans_have_the_size_and_dangle_nowhere(kv) -> None:
    wiring = Wiring(3, 4, 2, kv).with_spans(FACT_SPANS)
    most = prune(Circuit.full(wiring)).n_edges
    generator = np.random.default_rng(0)
    for n in (1, 2, 5, 17, 100, most - 1, most):
        drawn = random_circuit(wiring, n, generator)
        assert drawn.n_edges == n
        assert prune(drawn) == drawn
    assert random_circuit(wiring, wiring.n_edges, generator).n_edges == most
    drawn = random_circuit(wiring, 40, generator)
    other = same_shape(drawn, generator)
    assert other.n_edges == drawn.n_edges
    assert prune(other) == other
    more, edge = inflated(drawn, generator)
    assert more.kept[edge]
    assert drawn <= more
    assert prune(more) == more


# --- files, names, comparisons -------------------------------------------------------------------


def test_names_of_edges_carry_the_span_and_lead_back() -> None:
    wiring = Wiring(2, 4, 2).with_spans(FACT_SPANS)
    for edge in range(0, wiring.n_edges, 7):
        assert wiring.edge_index(wiring.edge_name(edge)) == edge
    assert wiring.edge_name(0) == "input->a0.h0<q>@subject"
    for name, other in (("input->m0", wiring), ("input->m0@last", wiring.with_spans())):
        with pytest.raises(OptionError, match="no edge"):
            other.edge_index(name)


def test_a_stored_circuit_of_spans_is_the_same_when_read(model, pairs, tmp_path: Path) -> None:
    scores = attribute(model, pairs, method="eap", spans="auto")
    circuit = select(scores, Selection.TOP, 40)
    circuit.save(tmp_path / "c.kc.safetensors")
    read = Circuit.load(tmp_path / "c.kc.safetensors")
    assert read == circuit
    assert read.wiring.spans == FACT_SPANS
    np.testing.assert_array_equal(read.scores.values, circuit.scores.values)
    assert read.provenance["spans"] == "auto"
    comparison = Comparison(circuit, replace(circuit, kept=np.roll(circuit.kept, 1)))
    comparison.save(tmp_path / "d.kc.safetensors")
    again = type(comparison).load(tmp_path / "d.kc.safetensors")
    assert again.jaccard == comparison.jaccard < 1
    assert "@" in again.rows()[0]["edge"]


def test_a_file_whose_spans_cannot_be_is_refused(tmp_path: Path) -> None:
    from circuits.base.arrays import save_arrays

    circuit = Circuit.empty(Wiring(2, 2, 2).with_spans(("a", "last", "others")))
    for spans in (["a", "a", "last", "others"], ["a"], "last", [1]):
        metadata = circuit.metadata()
        metadata["geometry"] = metadata["geometry"] | {"spans": spans}
        path = tmp_path / "c.kc.safetensors"
        save_arrays(path, "circuit", circuit.arrays(), metadata)
        with pytest.raises(CircuitFileError):
            Circuit.load(path)


def test_circuits_with_and_without_spans_do_not_mix(model, pairs, tmp_path: Path) -> None:
    apart = some(model.wiring().with_spans(FACT_SPANS), 0)
    with pytest.raises(OptionError):
        apart & apart.blind()
    with pytest.raises(OptionError):
        run_circuits(model, pairs, [apart, apart.blind()])
    with pytest.raises(OptionError, match="no place for the spans"):
        save_eap_ig(apart, tmp_path / "c.json")
    with pytest.raises(OptionError, match="where its spans are"):
        apart.as_model(model)
    assert not list(tmp_path.iterdir())
    blind = apart.blind()
    assert blind.blind() is blind
    assert blind.everywhere(FACT_SPANS).blind() == blind


def test_the_graph_has_an_edge_a_span() -> None:
    wiring = Wiring(2, 2, 2).with_spans(("a", "last", "others"))
    graph = Circuit.full(wiring).to_networkx()
    assert graph.number_of_edges() == wiring.n_edges
    assert graph.edges["input", "a0.h0", "q@last"]["span"] == "last"
