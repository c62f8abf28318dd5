"""An edit method is a value: a user's own is taken wherever the built-in ones are."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.base import plugins
from circuits.base.choices import EditStatus
from circuits.base.errors import NumericalError, OptionError
from circuits.edits.edit import WeightDelta
from circuits.edits.judge.success import Judge
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import MOST_CHANGE, check_size, edit
from circuits.edits.methods.unlearn import unlearn
from circuits.edits.parts.examples import Example
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model
from locate.edit import Editor, Mode, mode_for, run_edits
from locate.edited import edit_facts
from locate.looks.says import says
from locate.options import Editing, Judging
from tests.edits import OTHER, QUICK, REQUEST, TEXT, same, weights

PLUGIN = '''
"""An edit method of one's own: along the gradient of the target, one step, at one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from circuits.base.options import Options, option
from circuits.edits.edit import WeightDelta
from circuits.edits.methods.registry import EditMethod
from circuits.edits.parts.training import Trainee, negative_log_likelihood, passage


@dataclass(frozen=True)
class NudgeSettings(Options):
    layers: tuple[int, ...]
    size: float = option(0.1, above=0)


def nudge(model, requests, layers, settings, *, generator, progress=None):
    trainee = Trainee(model)
    texts = [passage(model, each.text, each.target) for each in requests]
    changes = trainee.train([model.mlp_output_name(layer) for layer in layers])
    with torch.enable_grad():
        loss = negative_log_likelihood(trainee, texts).mean()
        loss.backward()
    for change in changes:
        change.requires_grad_(False).sub_(settings.size * change.grad / change.grad.norm())
    return trainee.delta(), {"loss": float(loss.detach())}


EditMethod.add("nudge", nudge, "one step along the gradient", settings=NudgeSettings)
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file above, and a world that forgets it afterwards."""
    monkeypatch.setattr(EditMethod, "_known", dict(EditMethod._known))
    monkeypatch.setattr(plugins, "_loaded", {})
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


def test_a_file_outside_the_package_adds_a_method_with_one_call(model, plugin):
    assert len(PLUGIN.strip().splitlines()) <= 40
    plugins.load_plugin(plugin)
    before = weights(model)
    found = edit(model, REQUEST, "nudge", layers=[1], settings={"size": 0.3})
    assert found.status == EditStatus.DONE
    assert found.delta.norm() == pytest.approx(0.3, rel=1e-4)
    assert found.provenance["settings"] == {"layers": (1,), "size": 0.3}
    assert len(found.provenance["method_sha256"]) == 64
    assert found.provenance["bos"] is True
    assert same(before, weights(model))
    with pytest.raises(OptionError, match="size is above 0"):
        edit(model, REQUEST, "nudge", layers=[1], settings={"size": -1})
    edited = edit_facts(model, [REQUEST, OTHER], Editing(method=EditMethod.of("nudge"), layers="1"))
    assert edited.status == {"done": 1}
    assert edited.run.mode == Mode.TOGETHER


def unsettled(model, requests, layers, settings, *, generator, progress=None):
    """A method without a class of settings."""
    weight = model.parameter(model.mlp_output_name(1))
    return WeightDelta({model.mlp_output_name(1): settings["by"] * weight}), {}


def test_a_function_is_a_method_under_its_own_name(model):
    found = edit(model, REQUEST, unsettled, settings={"by": 1e-3})
    opposite = edit(model, REQUEST, unsettled, settings={"by": -1e-3})
    assert found.method == "unsettled"
    assert {found.status, opposite.status} == {EditStatus.DONE, EditStatus.DIVERGED}
    assert edit(model, REQUEST, lambda_named, settings={}).status == EditStatus.NO_CHANGE


def lambda_named(model, requests, layers, settings, *, generator, progress=None):
    return WeightDelta({}), {}


def test_the_table_says_what_a_method_takes(model):
    assert EditMethod.of("ft-m") == EditMethod.FT_M == "ft"
    assert mode_for("easyedit:ROME", 2, None) == Mode.TOGETHER
    assert mode_for("rome-original", 2, None) == Mode.EACH
    with pytest.raises(OptionError, match="ft takes no second moments"):
        edit(model, REQUEST, "ft", moments="identity")
    with pytest.raises(OptionError, match="edit method 'romeo' is none; there are rome, "):
        EditMethod.of("romeo")
    again = pickle.loads(pickle.dumps(EditMethod.ROME_ORIGINAL))
    assert again.preset == EditMethod.ROME_ORIGINAL.preset
    for method in EditMethod:
        assert callable(method.load())
        assert method.settings_class is not None


# --- edits that destroy the model ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["ft", "ft-l", "dinm"])
def test_a_change_of_many_times_the_weights_size_has_diverged(model, method):
    before = weights(model)
    settings = {"learning_rate": 1e10, "steps": 2}
    found = edit(model, REQUEST, method, layers=[1], settings=settings)
    assert found.status == EditStatus.DIVERGED
    assert found.delta is None
    assert same(before, weights(model))


def test_the_limit_of_a_change_is_the_stated_one(model):
    name = model.mlp_output_name(1)
    weight = model.parameter(name)
    check_size(model, WeightDelta({name: 0.99 * MOST_CHANGE * weight}))
    with pytest.raises(NumericalError, match=r"10\.1 times the weight's norm; more than 10 counts"):
        check_size(model, WeightDelta({name: 1.01 * MOST_CHANGE * weight}))


@pytest.mark.parametrize("method", ["rome", "ft"])
def test_a_model_of_nans_is_one_line(model, method):
    name = model.mlp_output_name(1)
    weight = model.parameter(name).clone()
    model.set_parameter(name, torch.full_like(weight, float("nan")))
    try:
        with pytest.raises(NumericalError, match="not finite as it is"):
            edit(model, REQUEST, method, layers=[1])
    finally:
        model.set_parameter(name, weight)


# --- BOS is one choice of a run ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rome", "memit", "alphaedit", "ft", "ft-l", "dinm"])
def test_every_method_reads_its_texts_with_the_runs_bos(
    model: Model, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXT.texts), encoding="utf-8")
    probe = Probe(ProbeKind.LOCALITY, "The capital of Cuba is", ("Havana",))
    request = type(REQUEST)(REQUEST.prompt, REQUEST.subject, REQUEST.target, probes=(probe,))
    chosen = EditMethod.of(method)
    settings = dict(QUICK) if chosen.needs_moments else {}
    settings |= {"alphaedit": {"threshold": 0.9, "relative_threshold": True}}.get(method, {})
    options = {"layers": [1], "settings": settings, "cache": tmp_path / "moments"}
    options |= {"moments": text} if chosen.needs_moments else {}
    fed, original = {}, torch.nn.functional.embedding
    for bos in (True, False):
        seen = fed[bos] = []
        plain = model.with_bos(bos)

        # Whoever runs the model, the bridge or a plain model that shares its weights.
        def embedding(
            ids: torch.Tensor, weight: torch.Tensor, *rest: Any, seen: list[Any] = seen, **more: Any
        ) -> torch.Tensor:
            if len(weight) == model.d_vocab:
                seen.append(ids)
            return original(ids, weight, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "embedding", embedding)
            found = edit(model, request, method, bos=bos, **options)
        assert found.provenance["bos"] is bos
        assert plain.tokenizer.use_bos(None) is bos
        if chosen.needs_moments:
            assert found.provenance["moments"]["bos"] is bos
    begin = model.tokenizer.hf.bos_token_id
    # A single token goes on with a text whose keys and values are at hand.
    texts = [each for each in fed[True] if each.shape[1] > 1]
    assert texts
    assert all(bool((each[:, 0] == begin).all()) for each in texts)
    assert fed[False]
    sampled = [each for each in fed[False] if bool((each[:, 0] == begin).any())]
    starts = {each.shape[1] for each in sampled}
    # Contexts alone are sampled from the BOS, which is no part of what they become.
    assert starts <= set(range(1, 7)) if method == "rome" else not sampled


def test_the_edits_with_and_without_bos_differ(model, tmp_path):
    norms = {
        edit(model, REQUEST, "ft", layers=[1], bos=bos).delta.fingerprint() for bos in (True, False)
    }
    assert len(norms) == 2
    default = edit(model, REQUEST, "ft", layers=[1]).delta.fingerprint()
    assert default == edit(model, REQUEST, "ft", layers=[1], bos=True).delta.fingerprint()


def test_a_run_of_edits_asks_and_edits_with_one_bos(model):
    with_bos, without = (
        edit_facts(
            model, [REQUEST], Editing(method=EditMethod.of("ft"), layers="1"), Judging(bos=bos)
        )
        for bos in (True, False)
    )
    assert without.run.outcomes[0].provenance["bos"] is False
    assert with_bos.delta.fingerprint() != without.delta.fingerprint()
    plain = edit(model, REQUEST, "ft", layers=[1], bos=False)
    assert plain.delta.fingerprint() == without.delta.fingerprint()
    before = plain.details["probability_before"][0]
    assert without.scores[0].probability[0] == pytest.approx(before, rel=1e-4)


def test_unlearning_reads_its_texts_with_the_runs_bos(model):
    forget, retain = ([Example(text)] for text in TEXT.texts[:2])
    found = [
        unlearn(model, forget, retain, "ga-gd", layers=[1], settings={"epochs": 1}, bos=bos)
        for bos in (None, True, False)
    ]
    assert [each.provenance["bos"] for each in found] == [True, True, False]
    losses = [each.details["forget"]["before"]["loss"] for each in found]
    assert losses[0] == losses[1] != losses[2]


def test_an_edit_after_which_the_model_knows_no_text_has_diverged(model, monkeypatch):
    editing = Editing(method=EditMethod.of("ft"), layers="1")
    assert edit_facts(model, [REQUEST], editing).status == {"done": 1}
    before = weights(model)
    monkeypatch.setattr("locate.edit.MOST_DRIFT", 1e-3)
    for asked in ([REQUEST], [REQUEST, OTHER]):
        ruined = edit_facts(model, asked, replace(editing, sequential=False))
        assert set(ruined.status) == {"diverged"}
        assert ruined.delta is None
        assert ruined.run.made == ()
        assert all(score.reply[0] == score.reply[1] for score in ruined.scores)
        assert ruined.as_dict()["success"] is None
        assert "counts as diverged" in ruined.run.notes[0]
    assert same(before, weights(model))


def test_the_edit_of_a_sequence_that_ruins_the_model_has_diverged_and_is_taken_back(
    model, monkeypatch
):
    editing, before = (
        Editing(method=EditMethod.of("ft"), layers="1", sequential=True),
        weights(model),
    )
    whole = edit_facts(model, [REQUEST, OTHER], editing)
    assert whole.status == {"done": 2}
    drifts = chain([1e6], repeat(1.0))
    monkeypatch.setattr("circuits.edits.judge.success.Judge.drift", lambda judge: next(drifts))
    ruined = edit_facts(model, [REQUEST, OTHER], editing)
    assert ruined.status == {"done": 1, "diverged": 1}
    assert "counts as diverged" in ruined.run.notes[0]
    assert [score.request.subject for score in ruined.scores] == [REQUEST.subject, OTHER.subject]
    assert ruined.run.made == (1,)
    assert [each["made"] for each in ruined.as_dict()["scores"]] == [False, True]
    assert ruined.table().n == len(ruined.run.right_after) == 2
    assert "with 1 of 2 edits made" in says(ruined)
    alone = edit_facts(model, [OTHER], replace(editing, sequential=False))
    assert ruined.delta.fingerprint() == alone.delta.fingerprint()
    assert same(before, weights(model))


def test_a_sequence_whose_edits_all_ruin_the_model_changes_nothing(model, monkeypatch):
    before = weights(model)
    monkeypatch.setattr("locate.edit.MOST_DRIFT", 1e-3)
    ruined = edit_facts(
        model, [REQUEST, OTHER], Editing(method=EditMethod.of("ft"), layers="1", sequential=True)
    )
    assert ruined.status == {"diverged": 2}
    assert ruined.delta is None
    assert same(before, weights(model))


def test_a_perplexity_that_is_no_number_is_no_small_drift(model, monkeypatch):
    monkeypatch.setattr("circuits.edits.judge.success.Judge.drift", lambda judge: float("nan"))
    ruined = edit_facts(model, [REQUEST], Editing(method=EditMethod.of("ft"), layers="1"))
    assert ruined.status == {"diverged": 1}


def test_without_texts_nothing_is_said_of_the_models_perplexity(model):
    run = run_edits(Editor(model, "ft", layers=[1]), Judge(model, [REQUEST]), "each")
    assert [outcome.status for outcome in run.outcomes] == [EditStatus.DONE]
    assert len(run.final) == 1
    assert np.isnan(run.drifts).all()
