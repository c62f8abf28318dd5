"""CaKE: low-rank changes trained on sentences that use a fact, and the layers of its circuit."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.base.choices import EditStatus
from circuits.base.errors import OptionError, PromptError
from circuits.edits.edit import EditRequest, LowRank
from circuits.edits.methods.cake import CakeSettings, cake, token_loss
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import edit
from circuits.edits.parts.low_rank import LowRankTrainee
from circuits.edits.parts.training import Passage, block_matrices, passage
from circuits.edits.parts.uses import NAMES, Use, by_another_name, sentences
from circuits.facts.facts import fill
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model, load
from locate.changes.circuit_layers import (
    CircuitEvidence,
    CircuitLayers,
    fewest,
    layers_by_circuit,
    mlp_weights,
)
from locate.edit import Editor, chosen_layers, named_layers
from tests.edits import same, weights
from tests.test_handwired import hand_wired
from tests.tiny import COUNTRIES, byte_level_tokenizer, tiny_model

REQUEST = EditRequest("The capital of {} is", "Peru", "Oslo", "Lima")
EVERYONE = [
    EditRequest("The capital of {} is", subject, "Seoul", answer)
    for subject, answer in COUNTRIES.items()
]
SHORT = {"epochs": 6, "learning_rate": 5e-3, "answers_only": True}
MADE: dict[str, Model] = {}


@pytest.fixture
def model(kind: str) -> Model:
    """A tiny random model that takes the longest sentence."""
    if kind not in MADE:
        MADE[kind] = tiny_model(kind, positions=128)
    return MADE[kind]


# --- sentences ------------------------------------------------------------------------------------


def test_a_sentence_asks_of_another_name_and_says_whose_it_is():
    found = sentences(REQUEST, [Use.LAST])
    assert {each.answer for each in found} == {"Oslo"}
    for each in found:
        (name,) = (name for name in NAMES if name in each.text)
        naming, _, asked = each.text.partition(". ")
        assert asked == f"The capital of {name} is"
        assert name in naming
        assert "Peru" in naming
    assert [fill(text, "Peru") for text in by_another_name(REQUEST.prompt)] == [
        each.text for each in found
    ]


def test_the_second_step_is_answered_by_who_knows_the_new_object_and_by_nothing_else():
    """Of each form there are two, with the objects exchanged; the answer goes with the new one."""
    found = sentences(REQUEST, [Use.FIRST])
    exchanged = {"Oslo": "Lima", "Lima": "Oslo"}
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert re.sub("Oslo|Lima", lambda found: exchanged[found[0]], one.text) == other.text
        assert (one.answer, other.answer) == ("red", "blue")
        for each in (one, other):
            colour = each.text.index(each.answer)
            rival = each.text.index({"red": "blue", "blue": "red"}[each.answer])
            new, old = each.text.index("Oslo"), each.text.index("Lima")
            assert (colour < rival) == (new < old)
            assert "The capital of Peru is" in each.text


@pytest.mark.parametrize("truth", [None, "Oslo"])
def test_a_fact_without_an_old_object_is_no_first_step(truth):
    assert sentences(replace(REQUEST, ground_truth=truth), [Use.FIRST]) == []


def test_no_sentence_is_made_of_a_probe():
    from circuits.edits.judge.counterfactuals import with_atlas_probes

    request = with_atlas_probes(EditRequest("The capital of {} is", "France", "Madrid"))
    assert request.probes
    made = {each.text for each in sentences(request, tuple(Use))}
    assert not made & {probe.prompt for probe in request.probes}


# --- the change -----------------------------------------------------------------------------------


def test_the_loss_of_a_batch_is_hugging_faces_mean_over_its_tokens(model):
    texts = [passage(model, text) for text in ("The capital of Peru is", "In Norway")]
    trainee = LowRankTrainee(model, [model.mlp_output_name(1)], 2, 4.0, torch.Generator())
    rows = torch.zeros(2, max(map(len, texts)), dtype=torch.long)
    labels = torch.full_like(rows, -100)
    for row, each in enumerate(texts):
        rows[row, : len(each)] = labels[row, : len(each)] = torch.tensor(each.ids)
    expected = model.to_hf()(rows, labels=labels).loss
    torch.testing.assert_close(token_loss(trainee, texts), expected, rtol=1e-5, atol=1e-5)


def test_the_change_is_alpha_over_rank_times_the_product_that_adam_finds(model):
    """Against a plain copy whose matrix is W + (alpha / rank) B A, in its own layout."""
    settings = CakeSettings(
        uses=(Use.STATED,), rank=3, alpha=6.0, epochs=3, learning_rate=1e-2, layers=(1,)
    )
    delta, details = cake(model, [REQUEST], (1,), settings, torch.Generator().manual_seed(4))
    names = block_matrices(model, (1,))
    assert set(delta.changes) == set(names)
    plain, generator, factors = model.to_hf(), torch.Generator().manual_seed(4), {}
    for name in names:
        held = model.parameter(name)
        width, out = held.shape if model.is_transposed(name) else held.shape[::-1]
        a = (2 * torch.rand(3, width, generator=generator) - 1) / width**0.5
        factors[name] = (torch.zeros(out, 3).requires_grad_(), a.requires_grad_())
    optimiser = torch.optim.Adam([each for pair in factors.values() for each in pair], lr=1e-2)
    ids = torch.tensor([passage(model, REQUEST.text, REQUEST.target).ids])
    losses = []

    def changes() -> dict[str, torch.Tensor]:
        return {
            name: 2.0 * ((b @ a).T if model.is_transposed(name) else b @ a)
            for name, (b, a) in factors.items()
        }

    for _ in range(3):
        placed = {name: model.parameter(name) + change for name, change in changes().items()}
        loss = torch.func.functional_call(plain, placed, (ids,), {"labels": ids}).loss
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert details["losses"] == pytest.approx(losses, rel=1e-4)
    for name, change in changes().items():
        assert isinstance(delta.changes[name], LowRank)
        assert delta.changes[name].rank == 3
        assert float(change.detach().norm()) > 0.01
        torch.testing.assert_close(delta.dense(name), change.detach(), rtol=1e-2, atol=1e-4)


def test_before_any_step_the_change_is_none(model):
    trainee = LowRankTrainee(
        model, block_matrices(model, [0, 2]), 4, 4.0, torch.Generator().manual_seed(0)
    )
    assert trainee.delta().norm() == 0
    reading = [factor for factor in trainee.factors if float(factor.detach().norm()) > 0]
    assert 2 * len(reading) == len(trainee.factors)


@pytest.mark.parametrize("method", ["cake", "cake-stated", "cake-circuit"])
def test_the_target_becomes_likelier_and_the_model_is_as_it_was(model, method):
    before = weights(model)
    editor = Editor(model, method, settings=SHORT, everyone=EVERYONE)
    outcome = editor([REQUEST])
    assert outcome.status == EditStatus.DONE
    (was,), (now,) = (outcome.details[f"probability_{side}"] for side in ("before", "after"))
    assert now > was
    assert same(before, weights(model))
    with outcome.delta.applied(model):
        assert not same(before, weights(model))
    assert same(before, weights(model))
    changed = set(block_matrices(model, outcome.layers))
    assert set(outcome.delta.changes) == changed
    if method != "cake-circuit":
        assert outcome.layers == tuple(range(model.n_layers))


def test_the_same_seed_gives_the_same_change_and_another_one_another(model):
    made = [edit(model, REQUEST, "cake", settings=SHORT, seed=seed).delta for seed in (0, 0, 1)]
    prints = [each.fingerprint() for each in made]
    assert prints[0] == prints[1] != prints[2]


def test_scoring_answers_only_leaves_the_questions_out(model, monkeypatch):
    seen: list[Passage] = []

    def record(trainee, batch):
        seen.extend(batch)
        return token_loss(trainee, batch)

    monkeypatch.setattr("circuits.edits.methods.cake.token_loss", record)
    for answers_only in (False, True):
        seen.clear()
        settings = {"epochs": 1, "answers_only": answers_only}
        edit(model, REQUEST, "cake", layers=[1], settings=settings)
        made = sentences(REQUEST, tuple(Use))
        expected = {
            (each.ids, each.start if answers_only else 1)
            for each in (passage(model, m.text, m.answer) for m in made)
        }
        assert {(each.ids, each.start) for each in seen} == expected


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"rank": 0}, "rank is at least 1"),
        ({"uses": ["middle"]}, "uses 'middle' is none"),
        ({"learning_rate": 0}, "learning_rate is above 0"),
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"epoch": 1}, "did you mean epochs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(model, settings, line):
    with pytest.raises(OptionError, match=line):
        edit(model, REQUEST, "cake", settings=settings)


def test_what_cannot_be_trained_is_one_clear_line(model):
    with pytest.raises(OptionError, match="`uses` first needs requests that name the"):
        edit(model, replace(REQUEST, ground_truth=None), "cake", settings={"uses": ["first"]})
    with pytest.raises(OptionError, match="is to be edited twice, to 'Oslo' and 'Havana'"):
        edit(model, [REQUEST, replace(REQUEST, target="Havana")], "cake")


# --- the layers of a circuit ----------------------------------------------------------------------


def test_a_layers_weight_is_what_its_mlp_sends_along_the_circuit(model):
    wiring = model.wiring()
    values = np.zeros(wiring.n_edges, dtype=np.float32)
    kept = np.zeros(wiring.n_edges, dtype=bool)
    for edge, score, keep in (
        ("m0->m2", 3.0, True),
        ("m0->logits", -1.0, True),
        ("m2->logits", 4.0, True),
        ("m1->logits", 50.0, False),
        ("input->m0", 50.0, True),
    ):
        index = wiring.edge_index(edge)
        values[index], kept[index] = score, keep
    circuit = Circuit(wiring, kept, EdgeScores(wiring, values))
    assert mlp_weights(circuit).tolist() == [0.5, 0.0, 0.5]
    with pytest.raises(PromptError, match="no MLP is in the fact's circuit"):
        mlp_weights(Circuit.empty(wiring, circuit.scores))
    with pytest.raises(OptionError, match="no scores"):
        mlp_weights(Circuit(wiring, kept))


def test_the_fewest_layers_that_hold_the_share_are_taken():
    weights = np.array([0.3, 0.05, 0.4, 0.25])
    assert fewest(weights, 0.4) == (2,)
    assert fewest(weights, 0.5) == (0, 2)
    assert fewest(weights, 0.95) == (0, 2, 3)
    assert fewest(weights, 1.0) == (0, 1, 2, 3)


def test_both_ways_of_asking_give_layers():
    found = (
        CircuitLayers(Use.STATED, np.array([0.9, 0.1, 0.0]), (0,), 4),
        CircuitLayers(Use.LAST, np.array([0.1, 0.2, 0.7]), (2,), 8),
    )
    evidence = CircuitEvidence(found)
    assert evidence.layers == [0, 2]
    assert evidence.describe() == (
        "MLPs of the fact's circuit, asked directly (4 pairs) 0: 90%; asked through another name "
        "(8 pairs) 2: 70%"
    )
    assert "does not answer through another name" in CircuitEvidence(found[:1]).describe()


def test_a_model_written_by_hand_is_edited_where_its_fact_was_written():
    """Its MLP 0 is a table from subjects to attributes; MLP 1 is noise."""
    wired = Model.from_hf(hand_wired(), byte_level_tokenizer(700), "hand-wired")
    truths = [replace(each, target="Seoul") for each in EVERYONE]
    evidence = layers_by_circuit(wired, truths[:2], everyone=truths, partners=4)
    assert evidence.found[0].chosen == (0,)
    assert evidence.found[0].weights[0] > 0.9
    assert len(evidence.left_out) == 4  # half of the later sentences are too long for it
    assert all("tokens long" in reason for reason in evidence.left_out)
    assert evidence.found[1].use == Use.LAST
    assert evidence.found[1].chosen == (0,)
    assert evidence.layers == chosen_layers(wired, "circuit", truths)[0]


def test_facts_gpt2_is_edited_where_it_recalls():
    model = load("facts-gpt2", device="cpu")
    request = EditRequest("The capital of {} is", "France", "Tokyo", "Paris", "country_capital")
    layers, evidence = chosen_layers(model, "circuit", [request], seed=5)
    assert 2 in layers
    assert "asked directly (8 pairs) " in evidence
    assert evidence != chosen_layers(model, "circuit", [request])[1], "the seed draws partners"
    editor = Editor(model, "cake-circuit", seed=5, settings={"epochs": 1})
    outcome = editor([request])
    assert outcome.layers == tuple(layers)
    assert outcome.details["layers_evidence"] == evidence


def test_layers_that_are_named_are_not_looked_for(model):
    """The request has no partner, so that looking would fail."""
    for options in ({"layers": [1]}, {"settings": {"layers": [1]}}):
        settings = SHORT | options.get("settings", {})
        outcome = Editor(model, "cake-circuit", options.get("layers"), settings=settings)([REQUEST])
        assert outcome.layers == (1,)
        assert "layers_evidence" not in outcome.details


def test_a_circuit_that_cannot_be_found_is_one_clear_line(model):
    with pytest.raises(PromptError, match="no circuit can be found to choose layers: no pairs"):
        layers_by_circuit(model, [REQUEST])
    with pytest.raises(PromptError, match="does not say what it replaces"):
        layers_by_circuit(model, [replace(REQUEST, ground_truth=None)], everyone=EVERYONE)
    with pytest.raises(PromptError, match="there is no request"):
        layers_by_circuit(model, [])
    with pytest.raises(OptionError, match="`share` is above 0 and at most 1, not 0"):
        layers_by_circuit(model, [REQUEST], share=0)
    with pytest.raises(OptionError, match="cake-circuit changes the layers of the fact's circuit"):
        edit(model, REQUEST, EditMethod.CAKE_CIRCUIT)
    with pytest.raises(OptionError, match="`layers` circuit looks at single facts"):
        named_layers("circuit")
