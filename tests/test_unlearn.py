"""Unlearning: the forget set's loss rises, the retain set's stays, and only chosen weights move."""

from __future__ import annotations

import json
from math import log

import pytest
import torch

from circuits.base.choices import EditStatus, Templates, UnlearnMethod
from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.edits import settings as hyperparameters
from circuits.edits.edit import WeightDelta
from circuits.edits.methods.memflex import LocalisationSettings, localise
from circuits.edits.methods.preference import SimNpoSettings, npo_loss, simnpo_loss
from circuits.edits.methods.rmu import Steering, direction
from circuits.edits.methods.unlearn import UnlearnSettings, unlearn
from circuits.edits.parts.examples import Example, fact_examples, read_examples, split_facts
from circuits.edits.parts.training import (
    Passage,
    Trainee,
    block_matrices,
    divergence,
    negative_log_likelihood,
    passage,
    token_accuracy,
)
from circuits.edits.settings import settings_for
from circuits.facts.facts import Fact, Relation, atlas
from circuits.model.model import Model, load
from tests.shared import shared_data
from tests.test_edit import same, weights

FORGET = [Example("The capital of Peru is", "Lima"), Example("The capital of Cuba is", "Havana")]
RETAIN = [
    Example("The capital of France is", "Paris"),
    Example("The language of Japan is", "Japanese"),
    Example("Zürich and São Paulo are cities"),
]
QUICK = {
    "learning_rate": 1e-3,
    "epochs": 4,
    "batch_size": 4,
    "accumulate": 1,
    "ceiling": None,
    "forget_weight": 1.0,
    "retain_weight": 0.5,
    # Random models say these answers with 6 nats a token: the published beta is satisfied there.
    "simnpo": {"beta": 0.05},
}


# RMU leads random models' activations elsewhere, which need not raise the loss of their answers.
@pytest.mark.parametrize("method", [m for m in UnlearnMethod if m != UnlearnMethod.RMU])
def test_the_forget_loss_rises_and_the_model_is_left_as_it_was(model, method):
    before = weights(model)
    outcome = unlearn(model, FORGET, RETAIN, method, settings=QUICK)
    assert outcome.status is EditStatus.DONE
    found = outcome.details["forget"]
    assert found["after"]["loss"] > found["before"]["loss"] + 0.1
    assert same(weights(model), before)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())
    texts = [passage(model, each.text, each.answer) for each in FORGET]
    with outcome.delta.applied(model):
        loss, accuracy = token_accuracy(Trainee(model), texts)
    assert found["after"] == {"loss": pytest.approx(loss, 1e-4), "accuracy": accuracy}


def test_the_terms_on_the_retain_set_hold_it_where_it_was(model):
    retain = [passage(model, each.text, each.answer) for each in RETAIN]
    settings = QUICK | {"retain_weight": 2.0, "epochs": 8}
    drift, loss = {}, {}
    for method in (UnlearnMethod.GA, UnlearnMethod.GA_GD, UnlearnMethod.GA_KL):
        outcome = unlearn(model, FORGET, RETAIN, method, settings=settings)
        loss[method] = outcome.details["retain"]
        drift[method] = _drift(model, outcome.delta, retain)
    assert loss[UnlearnMethod.GA_GD]["after"]["loss"] < loss[UnlearnMethod.GA]["after"]["loss"]
    assert drift[UnlearnMethod.GA_KL] < 0.9 * drift[UnlearnMethod.GA]
    # Nothing has drifted before the first step, and descent begins at the loss as it was.
    first = {
        method: unlearn(model, FORGET, RETAIN, method, settings=QUICK | {"epochs": 1}).details
        for method in drift
    }
    assert "retain" not in first[UnlearnMethod.GA]["epochs"][0]
    assert first[UnlearnMethod.GA_KL]["epochs"][0]["retain"] == pytest.approx(0, abs=1e-5)


def _drift(model: Model, delta: WeightDelta, texts: list[Passage]) -> float:
    """KL divergence of the changed model from the model, on the texts."""
    trainee = Trainee(model)
    changes = trainee.train(delta.changes)
    with torch.no_grad():
        for name, change in zip(delta.changes, changes, strict=True):
            change.copy_(delta.dense(name))
        return float(divergence(trainee, texts).mean())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_memflex_has_its_scripts_weights_in_every_architecture(model, kind, monkeypatch):
    """Of zjunlp/KnowUnDo: ascent counts 0.4 and the retain set 2; single texts, 16 a step."""
    monkeypatch.setattr(model.config, "model_type", kind)
    monkeypatch.setattr(hyperparameters, "_entry", lambda model: "")
    found, origin = settings_for(model, "memflex", UnlearnSettings, [0])
    assert (found.forget_weight, found.retain_weight) == (0.4, 2.0)
    assert (found.batch_size, found.retain_batch_size, found.accumulate) == (1, 1, 16)
    assert found.learning_rate == 3e-4
    assert origin.settings == "table of all models"


def test_memflex_touches_only_the_weights_that_it_selects(model):
    options = {"localisation": LocalisationSettings(quantile=0.75)}
    outcome = unlearn(model, FORGET, RETAIN, "memflex", settings=QUICK | options)
    found = outcome.details["localisation"]
    candidates = block_matrices(model, range(model.n_layers))
    assert set(found["cosine"]) == set(candidates)
    expected = {
        name
        for name in candidates
        if found["cosine"][name] < 0.92 and found["magnitude"][name] > found["threshold"]
    }
    assert set(outcome.delta.changes) == expected
    assert 0 < len(expected) <= len(candidates) // 4
    assert all(float(outcome.delta.dense(name).abs().max()) > 0 for name in expected)


def test_localisation_is_that_of_plain_gradients(model):
    """Nothing randomised, one copy: the gradients of Hugging Face's own loss."""
    import numpy as np

    names = block_matrices(model, [1])
    settings = LocalisationSettings(randomised=0.0, copies=1, quantile=0.0, similarity=1.0)
    sets = [[passage(model, each.text, each.answer) for each in part] for part in (FORGET, RETAIN)]
    found = localise(
        Trainee(model), *sets, names, settings, np.random.default_rng(0), model.d_vocab
    )
    gradients = []
    for texts in sets:
        plain = model.to_hf().requires_grad_(True)
        for each in texts:
            labels = torch.tensor([(-100,) * each.start + each.ids[each.start :]])
            (plain(torch.tensor([each.ids]), labels=labels).loss / len(texts)).backward()
        gradients.append({name: plain.get_parameter(name).grad.ravel() for name in names})
    for name in names:
        forget, retain = (part[name] for part in gradients)
        assert found.magnitude[name] == pytest.approx(float(forget.abs().mean()), rel=1e-3)
        cosine = float(forget @ retain / forget.norm() / retain.norm())
        assert found.cosine[name] == pytest.approx(cosine, abs=1e-3)
    lowest = min(found.magnitude.values())
    assert found.threshold == pytest.approx(lowest)
    assert set(found.selected) == {n for n in names if found.magnitude[n] > lowest}


def test_thresholds_that_select_nothing_are_refused_with_the_range(model):
    options = {"localisation": {"magnitude": 1e9}}
    with pytest.raises(OptionError, match=r"selects no weight: cosines from .* magnitudes up to"):
        unlearn(model, FORGET, RETAIN, "memflex", settings=QUICK | options)


def test_only_the_layers_asked_for_change(model):
    outcome = unlearn(model, FORGET, RETAIN, "ga", layers=[1], settings=QUICK)
    assert set(outcome.delta.changes) == set(block_matrices(model, [1]))
    assert outcome.layers == (1,)


def test_a_text_beyond_the_ceiling_is_not_pushed_further(model):
    texts = [passage(model, each.text, each.answer) for each in FORGET]
    highest = float(negative_log_likelihood(Trainee(model), texts).max())
    outcome = unlearn(model, FORGET, RETAIN, "ga", settings=QUICK | {"ceiling": highest})
    bounded = outcome.details["forget"]["after"]["loss"]
    free = unlearn(model, FORGET, RETAIN, "ga", settings=QUICK).details["forget"]["after"]["loss"]
    assert bounded < free
    lowest = float(negative_log_likelihood(Trainee(model), texts).min())
    reached = unlearn(model, FORGET, RETAIN, "ga", settings=QUICK | {"ceiling": lowest / 2})
    assert reached.status is EditStatus.NO_CHANGE
    assert reached.delta is None


@pytest.mark.parametrize("method", ["ga", "ga-kl", "memflex", "npo", "simnpo", "rmu"])
def test_a_diverging_unlearning_is_reported_and_leaves_the_model_as_it_was(model, method):
    before = weights(model)
    outcome = unlearn(model, FORGET, RETAIN, method, settings=QUICK | {"learning_rate": 3e37})
    assert outcome.status is EditStatus.DIVERGED
    assert outcome.delta is None
    assert "not finite" in outcome.reason
    assert same(weights(model), before)


def test_npo_is_its_equation_and_near_beta_0_gradient_ascent():
    p, before = torch.tensor([0.1, 0.4]), torch.tensor([0.4, 0.4])
    found = npo_loss(p.log(), before.log(), 0.5)
    # (2 / beta) log(1 + (p / p_before)^beta), of which the second has not changed
    assert found.tolist() == pytest.approx([4 * log(1.5), 4 * log(2)])
    log_p = p.log().requires_grad_()
    npo_loss(log_p, before.log(), 1e-4).sum().backward()
    assert log_p.grad.tolist() == pytest.approx([1, 1], abs=1e-3)


def test_simnpo_is_its_equation_with_and_without_the_answers_length():
    log_p, tokens = torch.tensor([4 * log(0.5)]), torch.tensor([4.0])
    found = simnpo_loss(log_p, tokens, SimNpoSettings(beta=2.0, gamma=0.0))
    assert float(found) == pytest.approx(log(1 + 0.5**2))
    bare = simnpo_loss(log_p, tokens, SimNpoSettings(beta=1.0, gamma=log(2), normalised=False))
    assert float(bare) == pytest.approx(2 * log(1 + 2 * 0.5**4))


def test_npos_first_step_is_at_the_unedited_models_log_probabilities(model):
    settings = QUICK | {"epochs": 1, "npo": {"beta": 0.25}}
    found = unlearn(model, FORGET, RETAIN, "npo", settings=settings).details["epochs"][0]
    assert found["preference"] == pytest.approx(2 / 0.25 * log(2), rel=1e-5)
    assert found["loss"] == pytest.approx(found["preference"] + 0.5 * found["retain"], rel=1e-5)


def test_simnpos_first_loss_is_that_of_the_models_own_losses(model):
    texts = [passage(model, each.text, each.answer) for each in FORGET]
    with torch.no_grad():
        losses = negative_log_likelihood(Trainee(model), texts)
    expected = (2 / 0.05 * (1 + (-0.05 * losses).exp()).log()).mean()
    found = unlearn(model, FORGET, RETAIN, "simnpo", settings=QUICK | {"epochs": 1})
    assert found.details["epochs"][0]["preference"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("answers_only", [False, True])
def test_rmus_terms_are_mean_squares_of_hugging_faces_hidden_states(model, answers_only):
    texts = [passage(model, each.text, each.answer) for each in FORGET]
    target = 3 * direction(model.d_model, 0)
    assert float(target.norm()) == pytest.approx(3)
    steering = Steering(Trainee(model), 1, target, answers_only)
    plain = model.to_hf()
    expected = []
    for each in texts:
        states = plain(torch.tensor([each.ids]), output_hidden_states=True).hidden_states[2][0]
        states = states[each.start - 1 : -1] if answers_only else states
        expected.append(float((states - target).square().mean()))
    with torch.no_grad():
        assert steering.away(texts).tolist() == pytest.approx(expected, rel=1e-4)
        assert steering.drift(texts).tolist() == [0, 0]


def test_rmu_changes_mlp_outputs_up_to_its_layer_and_leads_activations_to_the_direction(model):
    settings = QUICK | {"epochs": 8, "learning_rate": 1e-2, "rmu": {"layer": 1, "alpha": 1.0}}
    before = weights(model)
    outcome = unlearn(model, FORGET, RETAIN, "rmu", settings=settings)
    assert same(weights(model), before)
    assert set(outcome.details["weights"]) == {model.mlp_output_name(layer) for layer in (0, 1)}
    assert outcome.layers == (0, 1)
    first, last = (outcome.details["epochs"][place] for place in (0, -1))
    assert last["forget"] < first["forget"]
    assert first["retain"] == 0
    other = unlearn(model, FORGET, RETAIN, "rmu", settings=settings, seed=1)
    assert other.details["epochs"][0]["forget"] != first["forget"]


@pytest.mark.parametrize("method", ["ga", "rmu"])
def test_layers_may_be_named_among_the_settings(model, method):
    settings = {**QUICK, "layers": (0,)}
    outcome = unlearn(model, FORGET, RETAIN, method, settings=settings)
    assert outcome.layers == (0,)
    assert outcome.provenance["settings_origin"]["layers"] == "given"


def test_a_text_that_the_context_does_not_hold_is_named(model):
    long = Example("The capital of Peru is", "Lima " * (model.max_tokens + 1))
    with pytest.raises(PromptError, match=r"text 2 of the forget set: .* is too long"):
        unlearn(model, [FORGET[0], long], RETAIN, "ga", settings=QUICK)


def test_layers_that_rmu_cannot_use_are_refused(model):
    with pytest.raises(OptionError, match="has 0 to 1, not 2"):
        unlearn(model, FORGET, RETAIN, "rmu", settings={"rmu": {"layer": 2}})
    with pytest.raises(OptionError, match="reads layer 0, which weights of layer 1 cannot reach"):
        unlearn(model, FORGET, RETAIN, "rmu", layers=[0, 1], settings={"rmu": {"layer": 0}})


def test_the_same_seed_gives_the_same_change(model):
    def found(seed: int) -> str:
        settings = QUICK | {"batch_size": 1}
        return unlearn(model, FORGET, RETAIN, "ga-gd", settings=settings, seed=seed).delta.norm()

    assert found(0) == found(0) != found(1)


def test_sets_that_cannot_be_used_are_refused(model):
    with pytest.raises(OptionError, match="both the forget and the retain set"):
        unlearn(model, FORGET, [*RETAIN, FORGET[0]], "ga")
    with pytest.raises(OptionError, match="the retain set holds no texts"):
        unlearn(model, FORGET, [], "ga-gd")
    with pytest.raises(PromptError, match="text 2 of the forget set"):
        unlearn(model, [FORGET[0], Example(" ")], RETAIN, "ga")
    with pytest.raises(OptionError, match="unlearn method 'ga-gdd' is none; there are ga, ga-gd"):
        unlearn(model, FORGET, RETAIN, "ga-gdd")


# --- sets ----------------------------------------------------------------------------------------


def test_texts_are_read_in_every_schema(tmp_path):
    rows = [
        {"text": "Zürich is a city"},
        {"prompt": "The capital of Peru is", "answer": "Lima"},
        {"text": "Who is she?", "labels": "She writes books."},
    ]
    expected = [
        Example("Zürich is a city"),
        Example("The capital of Peru is", "Lima"),
        Example("Who is she?", "She writes books."),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(rows), encoding="utf-8")
    assert read_examples(tmp_path / "a.jsonl") == read_examples(tmp_path / "b.json") == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [({"prompt": "x"}, "needs the key 'answer'"), ({"label": "x"}, "lacks the key 'text'")],
)
def test_a_malformed_text_is_refused_with_its_line(tmp_path, row, reason):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x y"}) + "\n" + json.dumps(row))
    with pytest.raises(FileFormatError, match=f"a.jsonl:2: .*{reason}"):
        read_examples(tmp_path / "a.jsonl")


def test_knowundo_is_read():
    for name in ("unlearn_train", "retention_train"):
        path = shared_data("KnowUnDo", "privacy", f"{name}.json")
        assert all(each.answer for each in read_examples(path))


def _relation(name: str) -> Relation:
    facts = tuple(Fact(name, f"subject{n}", f"object{n}") for n in range(8))
    return Relation(name, "", "", facts, (f"The {name} of {{}} is", f"{{}} has the {name}"))


def test_facts_to_forget_and_to_retain_share_no_subject():
    examples = fact_examples([_relation("capital"), _relation("language")], Templates.TRAIN)
    forget, retain = split_facts(examples, 3, 6, seed=0)
    facts = [{(e.relation, e.subject) for e in part} for part in (forget, retain)]
    assert list(map(len, facts)) == [3, 6]
    assert list(map(len, (forget, retain))) == [6, 12]  # each in both wordings
    assert not {e.subject for e in forget} & {e.subject for e in retain}
    assert split_facts(examples, 3, 6, seed=0) == (forget, retain)
    assert split_facts(examples, 3, 6, seed=1) != (forget, retain)
    with pytest.raises(OptionError, match="30 facts were asked for"):
        split_facts(examples, 3, 30)


def test_facts_are_chosen_by_relation_and_subject():
    relations = atlas()
    capital = next(name for name in relations if "capital" in name)
    one = relations[capital].subjects()[0]
    examples = fact_examples(relations[capital], subjects=[one])
    assert {(e.relation, e.subject) for e in examples} == {(capital, one)}
    assert len({e.text for e in examples}) == len(examples) > 1


@pytest.mark.slow
def test_ten_facts_of_the_embedded_model_are_forgotten_and_a_hundred_stay():
    """With the model's own settings; token accuracy may fall by the margin, 0.05."""
    model = load("facts-gpt2", device="cpu")
    firsts: dict[tuple[str | None, ...], Example] = {}
    for each in fact_examples(atlas().values()):
        firsts.setdefault((each.relation, each.subject, each.answer), each)
    forget, retain = split_facts(list(firsts.values()), 10, 100)
    kept = {}
    few = {"retain_batch_size": 10}  # for time
    settings = {"ga": {}, "ga-gd": {}, "ga-kl": {}, "npo": few, "simnpo": few, "rmu": few}
    for method, chosen in settings.items():
        details = unlearn(model, forget, retain, method, settings=chosen).details
        assert details["forget"]["before"]["accuracy"] > 0.95
        assert details["forget"]["after"]["accuracy"] < 0.3
        kept[method] = details["retain_kept"]
    assert kept == {"ga": False} | dict.fromkeys(("ga-gd", "ga-kl", "npo", "simnpo", "rmu"), True)
