"""What the EasyEdit adapter hands to a method: second moments, contexts, names, and no more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.base.errors import EasyEditError, KnowledgeCircuitsError, OptionError, PromptError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.easyedit import method_names, run_method
from circuits.edits.methods.run import edit
from circuits.edits.parts.moments import WantedMoments, find_moments
from circuits.model.model import Model

STAND_IN = Path(__file__).parent / "easyedit_standin"
REQUEST = EditRequest("The capital of {} is", "Peru", "Oslo")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Lima is the capital of Peru, Oslo of Norway. " * 9, encoding="utf-8")
    return path


def run(
    model: Model,
    name: str,
    layers: list[int] | None = None,
    moments: WantedMoments | None = None,
    requests: tuple[EditRequest, ...] = (REQUEST,),
    **settings: Any,
) -> tuple[WeightDelta, dict[str, Any]]:
    """As `edit` runs a method, but whatever becomes of the target."""
    settings = {"hparams": hparams(model), **settings, "method": name, "home": STAND_IN}
    generator = torch.Generator().manual_seed(0)
    return run_method(model, requests, layers, settings, generator, moments=moments)


def hparams(model: Model) -> Path:
    return STAND_IN / "hparams" / "ROME" / f"{model.name}.yaml"


@pytest.mark.parametrize("shrinkage", [None, 0.25])
def test_a_method_that_asks_for_second_moments_gets_ours(model, corpus, tmp_path, shrinkage):
    wanted = WantedMoments(model, corpus, tmp_path)
    delta, _ = run(model, "MEMIT", [0, 2], wanted, shrinkage=shrinkage)
    ours = find_moments(model, [0, 2], corpus, tmp_path)
    for layer in (0, 2):
        name = model.mlp_output_name(layer)
        change = delta.dense(name)
        rows = change if model.is_transposed(name) else change.T
        expected = ours.shrunk(layer, 1e-3 if shrinkage is None else shrinkage).diagonal()
        torch.testing.assert_close(rows[:, 0].double(), expected, rtol=1e-3, atol=1e-6)
        assert bool((rows - rows[:, :1]).abs().max() < 1e-6)
    assert delta.provenance["moments"]["corpus"] == ours.source["corpus"]


def test_second_moments_are_of_the_precision_that_the_hyperparameters_name(model, corpus, tmp_path):
    wanted = WantedMoments(model, corpus, tmp_path)
    for dtype in ("float32", "float64"):  # the stand-in asserts it
        assert run(model, "MEMIT", [1], wanted, mom2_dtype=dtype)[0].changes


def test_second_moments_reach_a_method_through_the_verb(model, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("EASYEDIT_HOME", str(STAND_IN))
    options = {"hparams": hparams(model), "layers": [1]}
    found = edit(model, REQUEST, "easyedit:MEMIT", settings=options, moments=corpus, cache=tmp_path)
    assert found.provenance["moments"]["corpus"] == "text.txt"


def test_second_moments_that_a_method_does_not_use_are_refused(model, corpus, tmp_path):
    wanted = WantedMoments(model, corpus, tmp_path)
    with pytest.raises(OptionError, match="easyedit:ROME takes no second moments; leave"):
        run(model, "ROME", moments=wanted)
    with pytest.raises(OptionError, match="set mom2_adjustment to true"):
        run(model, "MEMIT", moments=wanted, mom2_adjustment=False)
    with pytest.raises(OptionError, match="takes no second moments"):
        run(model, "ROME", shrinkage=0.1)


def test_second_moments_of_another_module_are_one_clear_line(model, corpus, tmp_path):
    wanted = WantedMoments(model, corpus, tmp_path)
    part = model.mlp_output_name(0).partition(".0.")[0] + ".{}"
    with pytest.raises(
        EasyEditError, match="EasyEdit's MEMIT asks for second moments of"
    ) as caught:
        run(model, "MEMIT", moments=wanted, rewrite_module_tmp=part)
    assert "\n" not in str(caught.value)


def test_contexts_stand_in_the_place_of_those_that_a_method_samples(model, corpus, tmp_path):
    wanted = WantedMoments(model, corpus, tmp_path)
    contexts = ("", "A {curly} text. ", "Another. ")
    _, details = run(model, "MEMIT", moments=wanted, contexts=contexts)
    assert "[['{}'], ['A curly text. {}', 'Another. {}']]" in details["printed"]
    with pytest.raises(OptionError, match="the first is empty"):
        run(model, "MEMIT", moments=wanted, contexts=("A text. ",))
    with pytest.raises(OptionError, match="EasyEdit's ft takes no contexts"):
        run(model, "ft", contexts=contexts)


def test_a_method_knows_the_models_kind_by_its_name(model, corpus, tmp_path):
    _, details = run(model, "MEMIT", moments=WantedMoments(model, corpus, tmp_path))
    kind = "gpt2-xl" if model.config.model_type == "gpt2" else "llama"
    assert kind in details["printed"].split(" [[")[0]


def test_settings_in_json_are_found_and_an_edit_in_place_counts(model):
    requests = (REQUEST, EditRequest("The capital of {} is", "Cuba", "Oslo"))
    if model.config.model_type == "gpt2":
        with pytest.raises(EasyEditError, match="as Llama and Qwen have them only"):
            run(model, "unke")
        return
    before = model.parameter(model.mlp_output_name(1)).clone()
    delta, details = run(model, "unke", hparams=None)
    assert list(delta.changes) == [model.mlp_output_name(1)]
    assert delta.provenance["hparams_file"] == f"{model.name}.json"
    assert torch.equal(model.parameter(model.mlp_output_name(1)), before)
    assert "'question': 'The capital of Peru is', 'answer': 'Oslo'" in details["printed"]
    assert "1 Qwen2.5-7B-Instruct" in details["printed"]
    with pytest.raises(OptionError, match="one request at a time"):
        run(model, "unke", hparams=None, requests=requests)
    with pytest.raises(EasyEditError, match=r"from a \.json file only"):
        run(model, "unke")


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("UltraEdit", {}, "failed: SystemExit: too few requests"),
        ("ROME", {"hparams": "none.yaml"}, r"there is no file .*none.yaml of hyperparameters"),
        ("ROME", {"hparams": __file__}, r"cannot take test_foreign.py for its hyperparameters"),
        ("odd", {}, "asks for 'train_set', which is not handed over"),
        ("dinm", {}, "needs a probe of locality with each request"),
        ("MEMIT", {"v_loss_layer": 3}, r"needs a v_loss_layer of .* \(0 to 2\), not 3"),
        ("ROME", {"rewrite_module_tmp": "h.{}.mlp"}, "needs a rewrite_module_tmp of .*'h"),
    ],
)
def test_what_cannot_run_is_one_clear_line(model, capsys, name, settings, reason):
    with pytest.raises(KnowledgeCircuitsError, match=reason) as caught:
        run(model, name, **settings)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""
    assert isinstance(caught.value, EasyEditError | OptionError | PromptError)


def test_stand_ins_for_what_is_imported_and_not_used_are_gone_afterwards(model, corpus, tmp_path):
    names = ("hydra", "nltk", "sklearn.manifold")
    before = [sys.modules.get(name) for name in names]
    run(model, "MEMIT", moments=WantedMoments(model, corpus, tmp_path))
    assert [sys.modules.get(name) for name in names] == before


def test_the_methods_of_a_checkout_are_its_folders():
    assert {"rome", "memit", "unke", "wise"} <= set(method_names(STAND_IN))
    assert not [name for name in method_names(STAND_IN) if name.startswith("_")]
