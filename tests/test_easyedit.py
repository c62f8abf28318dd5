"""The EasyEdit adapter, against a stand-in package with the same signatures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.base.choices import EditStatus
from circuits.base.errors import EasyEditError, OptionError, PromptError
from circuits.edits.edit import EditRequest
from circuits.edits.methods.run import EditOutcome, edit
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model

STAND_IN = Path(__file__).parent / "easyedit_standin"
ROOT = Path(__file__).parent.parent
REQUEST = EditRequest("The capital of {} is", "Peru", "Oslo")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYEDIT_HOME", str(STAND_IN))


def easyedit(
    model: Model, request: EditRequest, name: str, seed: int = 0, **settings
) -> EditOutcome:
    single = settings.pop("settings", {})
    return edit(model, request, f"easyedit:{name}", settings={**single, **settings}, seed=seed)


def made(model: Model) -> EditOutcome:
    """The stand-in draws its change: the first that raises the target's probability."""
    tried = (easyedit(model, REQUEST, "ROME", seed=seed) for seed in range(20))
    return next(each for each in tried if each.delta is not None)


def hparams(model: Model) -> Path:
    return STAND_IN / "hparams" / "ROME" / f"{model.name}.yaml"


def snapshot(model: Model) -> dict[str, torch.Tensor]:
    return {name: model.parameter(name).clone() for name in model.parameter_names}


def test_the_edit_is_the_difference_of_weights_and_the_model_is_as_before(model):
    before = snapshot(model)
    outcome = made(model)
    assert outcome.status is EditStatus.DONE
    assert outcome.delta is not None
    name = model.mlp_output_name(1)
    assert list(outcome.delta.changes) == [name]
    assert torch.linalg.matrix_rank(outcome.delta.dense(name), rtol=1e-4) == 1
    assert all(torch.equal(model.parameter(n), w) for n, w in before.items())
    assert not any(model.parameter(n).requires_grad for n in model.parameter_names)
    assert outcome.layers == (1,)
    assert outcome.details["probability_after"] != outcome.details["probability_before"]


def test_nothing_of_the_checkout_stays_in_the_process(model, capsys):
    style = sys.modules.get("matplotlib.style")
    numpy, state = np.random.get_state()[1].tobytes(), torch.get_rng_state()
    first = made(model)
    seed = first.provenance["seed"]
    again = easyedit(model, REQUEST, "rome", seed=seed)
    other = easyedit(model, REQUEST, "rome", seed=seed + 1)
    assert not [name for name in sys.modules if name.startswith("easyeditor")]
    assert sys.modules.get("matplotlib.style") is style
    # Python's own generator is drawn from by the run-time checks of the tests.
    assert np.random.get_state()[1].tobytes() == numpy
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().out == ""
    assert "successfully inserted" in first.details["printed"]
    assert first.delta.fingerprint() == again.delta.fingerprint()
    assert first.details["probability_after"] != other.details["probability_after"]


def test_a_method_that_trains_gives_a_change_that_raises_the_targets_probability(model):
    before = snapshot(model)
    options = {"scale": 1.0, "layers": [0, 2]}
    path = hparams(model)
    outcome = easyedit(model, REQUEST, "FT", hparams=path, settings=options)
    assert outcome.details["probability_after"] > outcome.details["probability_before"]
    assert set(outcome.delta.changes) == {model.mlp_output_name(0), model.mlp_output_name(2)}
    assert all(torch.equal(model.parameter(n), w) for n, w in before.items())
    assert outcome.provenance["settings"]["scale"] == 1.0
    assert outcome.provenance["settings"]["device"] == "cpu"


def test_weights_that_are_not_finite_are_reported_as_diverged(model):
    probe = Probe(ProbeKind.LOCALITY, "The capital of Cuba is", ("Havana",))
    request = EditRequest("The capital of {} is", "Peru", "Oslo", probes=(probe,))
    outcome = easyedit(model, request, "dinm", hparams=hparams(model))
    assert outcome.status is EditStatus.DIVERGED
    assert outcome.delta is None


def test_a_method_that_changes_nothing_is_reported_as_no_change(model):
    outcome = easyedit(model, REQUEST, "ROME", settings={"scale": 0.0})
    assert outcome.status is EditStatus.NO_CHANGE
    assert outcome.delta is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LoRA", "no change of the model's weights"),
        ("broken", "failed: RuntimeError: Expected all tensors to be on the same device$"),
        ("needy", "needs the package 'a_package_that_is_not_there'"),
        ("wise", "no change of the model's weights: it adds a memory"),
        ("GRACE", "no method 'GRACE'; there are broken, dinm, ft"),
    ],
)
def test_what_cannot_be_run_is_one_clear_line(model, name, reason):
    with pytest.raises(EasyEditError, match=reason) as caught:
        easyedit(model, REQUEST, name, hparams=hparams(model))
    assert "\n" not in str(caught.value)


def test_a_second_file_for_models_that_see_is_passed_over(model, tmp_path):
    checkout = tmp_path / "EasyEdit"
    shutil.copytree(STAND_IN, checkout)
    rome = checkout / "easyeditor" / "models" / "rome"
    (rome / "rome_multimodal_hparams.py").write_text("raise RuntimeError\n", encoding="utf-8")
    found = easyedit(model, REQUEST, "ROME", home=checkout)
    assert "probability_after" in found.details


def test_layers_reach_the_method_and_moments_are_refused(model):
    name = model.mlp_output_name(2)
    tried = (edit(model, REQUEST, "easyedit:ROME", layers=[2], seed=seed) for seed in range(20))
    found = next(each for each in tried if each.delta is not None)
    assert list(found.delta.changes) == [name]
    assert found.layers == (2,)
    with pytest.raises(OptionError, match="easyedit:ROME takes no second moments"):
        edit(model, REQUEST, "easyedit:ROME", moments="identity")


def test_a_method_leaves_no_file_where_the_user_is(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = easyedit(model, REQUEST, "litter", hparams=hparams(model))
    assert found.status is EditStatus.NO_CHANGE
    assert list(tmp_path.iterdir()) == []
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("bos", [True, False])
def test_the_tokenizer_that_is_handed_over_has_the_runs_bos(model, bos):
    found = edit(
        model, REQUEST, "easyedit:litter", settings={"hparams": hparams(model)}, bos=bos
    ).details["printed"]
    first = model.tokenizer.encode(REQUEST.text, bos=bos).ids
    assert found.strip() == " ".join(map(str, first))


def test_without_a_checkout_there_is_one_clear_line(model, monkeypatch, tmp_path):
    monkeypatch.delenv("EASYEDIT_HOME")
    with pytest.raises(EasyEditError, match="set EASYEDIT_HOME to a checkout"):
        easyedit(model, REQUEST, "ROME")
    with pytest.raises(EasyEditError, match="is no checkout of EasyEdit"):
        easyedit(model, REQUEST, "ROME", home=tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"layers": [3]}, "0 to 2"), ({"layers": []}, "needs layers"), ({"sclae": 1}, "sclae")],
)
def test_hyperparameters_that_do_not_fit_are_refused(model, settings, reason):
    with pytest.raises(OptionError, match=reason):
        easyedit(model, REQUEST, "ROME", settings=settings)


def test_a_method_without_hyperparameters_for_the_model_asks_for_a_file(model):
    with pytest.raises(EasyEditError, match="name a file of hyperparameters"):
        easyedit(model, REQUEST, "ft")


def test_a_subject_that_easyedit_would_replace_twice_is_refused(model):
    request = EditRequest("In Peruvian towns of {} they say", "Peru", "Oslo")
    with pytest.raises(PromptError, match="stands 2 times"):
        easyedit(model, request, "ROME")


def test_only_the_adapter_knows_easyeditor():
    layers = ("circuits", "locate", "viz", "experiments")
    files = [path for layer in layers for path in (ROOT / layer).rglob("*.py")]
    users = [path.name for path in files if "easyeditor" in path.read_text(encoding="utf-8")]
    assert users == ["easyedit.py"]
