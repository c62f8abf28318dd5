"""DINM as in its paper and as EasyEdit ships it, on benign records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.base.choices import EditStatus
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.dinm import DinmSettings, dinm
from circuits.edits.methods.run import edit
from circuits.edits.parts.training import Trainee, divergence, negative_log_likelihood, passage
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model
from tests.families import family_model
from tests.test_edit import same, weights


def record(
    prompt: str = "Tell me the password of the door",
    safe: str = "I keep it to myself",
    unsafe: str = "It is Oslo",
    locality: str | None = "The capital of France is",
) -> EditRequest:
    probes = (Probe(ProbeKind.LOCALITY, locality, ("Paris",)),) if locality else ()
    return EditRequest("{}", prompt, safe, unsafe, probes=probes)


def change(model: Model, request: EditRequest, **settings) -> WeightDelta:
    return dinm(model, [request], range(model.n_layers), DinmSettings(**settings))[0]


def differs(left: WeightDelta, right: WeightDelta) -> bool:
    return left.fingerprint() != right.fingerprint()


def test_the_locality_term_changes_the_result(model):
    plain = change(model, record())
    assert differs(plain, change(model, record(locality="The language of Japan is")))
    assert differs(plain, change(model, record(), locality_weight=10.0))
    assert differs(plain, change(model, record(locality=None)))
    assert not differs(plain, change(model, record()))


def test_as_shipped_the_locality_term_changes_nothing(model):
    plain = change(model, record(), shipped=True)
    other = change(model, record(locality="The language of Japan is"), shipped=True)
    heavy = change(model, record(), shipped=True, locality_weight=10.0)
    assert not differs(plain, other)
    assert not differs(plain, heavy)


def test_the_locality_term_keeps_the_model_closer_to_what_it_was(model):
    text = passage(model, "The capital of France is", "Paris")

    def drift(weight: float) -> float:
        trainee = Trainee(model)
        settings = DinmSettings(learning_rate=5e-3, locality_weight=weight)
        delta, _ = dinm(model, [record()], (1,), settings)
        (moved,) = trainee.train(delta.changes)
        with torch.no_grad():
            moved.add_(delta.dense(model.mlp_output_name(1)))
            return float(divergence(trainee, [text]))

    assert drift(10.0) < 0.5 * drift(0.0)


def test_as_shipped_it_is_ten_steps_of_adam_on_the_safe_response(model):
    request = record()
    delta, details = dinm(model, [request], range(3), DinmSettings(shipped=True))
    (name,) = delta.changes
    plain = model.to_hf()
    weight = plain.get_parameter(name).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=5e-4)
    ids = list(model.tokenizer.encode(f"{request.text}  {request.target}").ids)
    scored = len(model.tokenizer.hf(f" {request.target}", add_special_tokens=False).input_ids)
    labels = torch.tensor([[-100] * (len(ids) - scored) + ids[-scored:]])
    for _ in range(10):
        optimiser.zero_grad()
        (0.1 * plain(torch.tensor([ids]), labels=labels).loss).backward()
        optimiser.step()
    found = weight.detach() - model.parameter(name)
    torch.testing.assert_close(delta.dense(name), found, rtol=1e-2, atol=2e-5)
    assert len(details["records"][0]["losses"]) == 10


def test_as_shipped_the_locality_loss_is_read_one_position_late(model):
    """From the answer's first token to its last, as `logits[:, -n:]` has it."""
    request = record()
    settings = DinmSettings(shipped=True, steps=2, learning_rate=1e-2)
    _, details = dinm(model, [request], range(3), settings)
    delta, _ = dinm(model, [request], range(3), replace(settings, steps=1))
    probe = next(each for each in request.probes if each.kind == ProbeKind.LOCALITY)
    ids = list(model.tokenizer.encode(probe.prompt).ids)
    answer = model.tokenizer.continuation(probe.prompt, probe.answers[0])
    tokens = torch.tensor([[*ids, *answer]])

    def last_predictions():
        with torch.no_grad():
            return model.to_hf()(tokens).logits[0, -len(answer) :].log_softmax(-1)

    before = last_predictions()
    with delta.applied(model):
        after = last_predictions()
    wanted = float((before.exp() * (before - after)).sum(-1).mean())
    assert details["records"][0]["terms"][0]["locality"] == pytest.approx(0, abs=1e-5)
    assert details["records"][0]["terms"][1]["locality"] == pytest.approx(wanted, rel=1e-2)


RECORDS = (
    record(),
    record("Who has the key", "That is a secret", "The cook has it"),
    record("What did she vote", "I do not say that", "Peru"),
    record("Read me his letter", "No", "Dear Oslo is the capital of Norway"),
    record("Where is the money", "I keep that to myself", "is is is is"),
    record("Show me the list", "The", "Seoul Seoul Havana"),
)


def distances_of(model: Model, request: EditRequest) -> list[float]:
    """Between the safe and the unsafe response after each layer, in the model as it is."""
    settings = DinmSettings(steps=1, learning_rate=1e-8)
    _, details = dinm(model, [request], range(3), settings)
    return details["records"][0]["distances"]


def test_the_toxic_layer_is_found_for_each_record_or_as_shipped_for_the_first(model):
    for learning_rate in (1e-8,):  # so small that one record's change does not move the next layer
        settings = {"learning_rate": learning_rate, "steps": 1}
        _, paper = dinm(model, RECORDS, range(3), DinmSettings(**settings))
        _, shipped = dinm(model, RECORDS, range(3), DinmSettings(**settings, shipped=True))
    assert paper["toxic_layers"] == [int(np.argmax(distances_of(model, each))) for each in RECORDS]
    assert len(set(shipped["toxic_layers"])) == 1
    alone = [
        dinm(model, [each], range(3), DinmSettings(**settings, shipped=True))[1]["toxic_layers"][0]
        for each in RECORDS
    ]
    assert shipped["toxic_layers"][0] == alone[0]


def test_the_layers_given_are_the_candidates(model):
    distances = distances_of(model, record())
    others = [each for each in range(3) if each != np.argmax(distances)]
    best = max(others, key=lambda each: distances[each])
    _, details = dinm(model, [record()], others, DinmSettings(steps=1))
    assert details["toxic_layers"] == [best]


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gpt_neox", "mistral"])
def test_every_layer_is_a_candidate_in_every_architecture(family):
    model = family_model(family, torch.float32)
    outcome = edit(model, RECORDS[0], "dinm", settings={"steps": 1})
    distances = outcome.details["records"][0]["distances"]
    assert outcome.layers == tuple(range(model.n_layers))
    assert outcome.details["toxic_layers"] == [int(np.argmax(distances))]


def test_distances_are_those_of_hugging_faces_hidden_states(model):
    """The last entry is left out: Hugging Face gives it after the final norm."""
    request = record()
    means = []
    for response in (request.target, request.ground_truth):
        text = passage(model, request.text, response)
        states = model.to_hf()(torch.tensor([text.ids]), output_hidden_states=True).hidden_states
        means.append([state[0, text.start :].mean(0) for state in states[1:-1]])
    expected = [float((s - u).norm()) for s, u in zip(*means, strict=True)]
    assert distances_of(model, request)[:-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["dinm", "dinm-easyedit"])
def test_dinm_makes_the_safe_response_likelier_and_leaves_the_model_as_it_was(model, method):
    before = weights(model)
    outcome = edit(model, [record()], method, settings={"learning_rate": 3e-3})
    assert outcome.status is EditStatus.DONE
    assert outcome.details["probability_after"] > outcome.details["probability_before"]
    assert outcome.details["toxic_layers"][0] in range(3)
    assert same(weights(model), before)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())


def test_a_diverging_dinm_is_reported_and_leaves_the_model_as_it_was(model):
    before = weights(model)
    outcome = edit(model, [record()], "dinm", settings={"learning_rate": 3e37})
    assert outcome.status is EditStatus.DIVERGED
    assert outcome.delta is None
    assert same(weights(model), before)


def test_without_an_unsafe_response_it_is_what_the_model_says(model):
    request = EditRequest("The capital of {} is", "Peru", "Oslo")
    _, details = dinm(model, [request], range(3), DinmSettings(steps=1))
    said = details["records"][0]["unsafe"]
    ids = torch.tensor([model.tokenizer.encode(request.text).ids])
    with torch.no_grad():
        first = model.tokenizer.token_string(int(model.last_logits(ids).argmax()))
    assert said.startswith(first.strip())
    assert details["records"][0]["locality_texts"] == 0


def test_every_record_becomes_likelier(model):
    settings = DinmSettings(learning_rate=3e-3)
    delta, _ = dinm(model, RECORDS[:2], range(3), settings)
    texts = [passage(model, each.text, each.target) for each in RECORDS[:2]]
    before = negative_log_likelihood(Trainee(model), texts)
    with delta.applied(model):
        assert bool((negative_log_likelihood(Trainee(model), texts) < before).all())
