"""MEMIT and AlphaEdit: their closed forms, and what holds of the models that they leave."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import pytest
import torch

from circuits.base.errors import NumericalError, OptionError
from circuits.base.options import build
from circuits.edits import settings as hyperparameters
from circuits.edits.edit import WeightDelta
from circuits.edits.methods.alphaedit import (
    AlphaEditSettings,
    alphaedit,
    null_space,
    projected_directions,
)
from circuits.edits.methods.finetune import FineTuneSettings
from circuits.edits.methods.memit import MemitSettings, memit, weighted_directions
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.rome import RomeSettings, rome
from circuits.edits.methods.run import edit
from circuits.edits.parts.contexts import MEMIT_CONTEXTS, ContextSettings, place
from circuits.edits.parts.corpus import Corpus, atlas_corpus
from circuits.edits.parts.keys import at_subject, key_point, residual_point
from circuits.edits.parts.moments import Moments, collect_moments
from circuits.edits.parts.value import ValueSettings, optimise_values
from circuits.edits.settings import SETTINGS_FILE, layers_by_depth, merge, settings_for
from circuits.model.model import Model, load
from tests.edits import OTHER, REQUEST, TEXT, same, weights
from tests.tiny import tiny_model

BARE = ContextSettings(copies=0)
FREE = ValueSettings(steps=8, weight_decay=0.0, clamp=1e6)  # the clamps of ROME and MEMIT differ
TINY_WEIGHT = 1e-9


@pytest.fixture
def moments(model: Model) -> Moments:
    return collect_moments(model, TEXT, range(model.n_layers))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def residuals(model: Model, layer: int) -> torch.Tensor:
    prompts = [place(model, request) for request in (REQUEST, OTHER)]
    return at_subject(model, prompts, [residual_point(layer)], layer)[residual_point(layer)]


def run_memit(model: Model, layers: list[int], moments: Moments, weight: float) -> WeightDelta:
    settings = MemitSettings(tuple(layers), FREE, BARE, weight)
    return memit(model, [REQUEST, OTHER], layers, settings, moments, generator())[0]


def test_memit_of_one_fact_in_one_layer_is_rome_as_lambda_vanishes(model, moments):
    one, other = (
        rome(model, [REQUEST], [1], RomeSettings((1,), FREE, BARE), moments, generator()),
        memit(
            model,
            [REQUEST],
            [1],
            MemitSettings((1,), FREE, BARE, TINY_WEIGHT),
            moments,
            generator(),
        ),
    )
    name = model.mlp_output_name(1)
    torch.testing.assert_close(one[0].dense(name), other[0].dense(name), rtol=1e-3, atol=1e-4)
    assert one[0].norm() > 0.01


@pytest.mark.parametrize("layers", [[1], [0, 1]])
def test_every_request_reaches_its_value_as_lambda_vanishes(model, moments, layers):
    start = residuals(model, 1)
    found = optimise_values(model, [REQUEST, OTHER], 1, ("",), start, FREE)
    wanted = start + torch.stack([value.delta for value in found])
    with run_memit(model, layers, moments, TINY_WEIGHT).applied(model):
        torch.testing.assert_close(residuals(model, 1), wanted, rtol=1e-2, atol=1e-2)
    assert (wanted - start).norm() > 0.5


def test_emmet_reaches_every_value_exactly_in_one_layer(model, moments):
    """The method as users name it; with the text's moments its change is the least that does."""
    start = residuals(model, 1)
    found = optimise_values(model, [REQUEST, OTHER], 1, ("",), start, FREE)
    wanted = start + torch.stack([value.delta for value in found])
    settings = {"value": asdict(FREE), "contexts": asdict(BARE)}
    method = EditMethod.of("emmet")
    chosen, _ = settings_for(model, "emmet", MemitSettings, [1], {**method.preset, **settings})
    assert chosen.covariance_weight == 0
    delta, details = memit(model, [REQUEST, OTHER], [1], chosen, moments, generator())
    assert len(details["losses"]) == 2
    with delta.applied(model):
        torch.testing.assert_close(residuals(model, 1), wanted, rtol=1e-2, atol=1e-2)
    heavier = run_memit(model, [1], moments, 1e-6)
    name = model.mlp_output_name(1)
    torch.testing.assert_close(delta.dense(name), heavier.dense(name), rtol=1e-2, atol=1e-3)


def test_emmet_edits_several_facts_at_once_in_a_model_that_knows_them():
    model = load("facts-gpt2", device="cpu")
    settings, origin = settings_for(model, "emmet", MemitSettings, None, {"covariance_weight": 0.0})
    assert settings.layers == (2,)
    assert "facts-gpt2" in origin.layers
    moments = collect_moments(model, Corpus("atlas", atlas_corpus().texts[:60]), [2])
    outcome = edit(model, [REQUEST, OTHER], "emmet", moments=moments)
    assert list(outcome.delta.changes) == [model.mlp_output_name(2)]
    assert all(share > 0.5 for share in outcome.details["probability_after"])


def test_the_closed_form_is_the_papers_inverse_whatever_lambda():
    source = generator()
    keys = torch.randn(3, 10, generator=source)
    draws = torch.randn(50, 10, generator=source).double()
    moments = Moments({0: draws.T @ draws / 50}, "", {"kind": "text"})
    wide = keys.double()
    for weight in (0.01, 1.0, 1e4):
        inverse = torch.linalg.inv(weight * moments.matrices[0] + wide.T @ wide)
        found = weighted_directions(moments, 0, keys, weight, 0.0)
        torch.testing.assert_close(found, (inverse @ wide.T).T)


def test_a_heavier_text_moves_the_weights_less(model, moments):
    norms = [run_memit(model, [1], moments, weight).norm() for weight in (0.1, 10.0, 1e6)]
    assert norms[0] > norms[1] > 100 * norms[2]


def test_the_lower_layers_are_taken_back_before_the_change_is_returned(model, moments):
    before = weights(model)
    delta = run_memit(model, [0, 1, 2], moments, 1.0)
    assert same(weights(model), before)
    assert list(delta.changes) == [model.mlp_output_name(layer) for layer in (0, 1, 2)]


def test_one_prompt_cannot_be_edited_to_two_targets(model, moments):
    with pytest.raises(OptionError, match="edited twice"):
        memit(model, [REQUEST, REQUEST], [1], MemitSettings((1,)), moments, generator())


# --- AlphaEdit -----------------------------------------------------------------------------------


def alpha(threshold: float, ridge: float = 0.1) -> AlphaEditSettings:
    return AlphaEditSettings((1,), FREE, BARE, threshold, True, ridge)


def run_alphaedit(model: Model, moments: Moments, earlier=()) -> torch.Tensor:
    """The change of W, output by input."""
    delta, _ = alphaedit(model, [REQUEST], [1], alpha(0.3), moments, generator(), earlier=earlier)
    name = model.mlp_output_name(1)
    change = delta.dense(name)
    return (change.T if model.is_transposed(name) else change).double()


def test_alphaedit_does_not_move_what_lies_in_the_preserved_space(model, moments):
    change = run_alphaedit(model, moments)
    basis = null_space(moments, 1, alpha(0.3))
    preserved = torch.eye(len(basis)).double() - basis @ basis.T
    assert 0 < basis.shape[1] < len(basis)
    assert float((change @ preserved).norm()) < 1e-5 * float(change.norm())
    assert float(change.norm()) > 0.01


def test_the_projected_form_is_the_papers_equation():
    source = generator()
    basis = torch.linalg.qr(torch.randn(10, 6, generator=source).double()).Q
    keys, kept = torch.randn(2, 10, generator=source), torch.randn(3, 10, generator=source)
    project, both = basis @ basis.T, torch.cat([keys, kept]).double()
    system = project @ both.T @ both + 0.7 * torch.eye(10).double()
    wanted = torch.linalg.solve(system, project @ keys.double().T).T
    torch.testing.assert_close(projected_directions(basis, keys, kept, 0.7), wanted)


def test_alphaedit_moves_the_keys_of_earlier_requests_less(model, moments):
    key = at_subject(model, [place(model, OTHER)], [key_point(1)], 1)[key_point(1)][0].double()
    free = run_alphaedit(model, moments) @ key
    kept = run_alphaedit(model, moments, (OTHER,)) @ key
    assert float(kept.norm()) < 0.9 * float(free.norm())


def test_alphaedit_says_where_there_is_no_null_space(model):
    with pytest.raises(NumericalError, match="no direction"):
        null_space(Moments.identity(model, [1]), 1, alpha(0.9))


# --- hyperparameters -----------------------------------------------------------------------------


def test_every_table_of_hyperparameters_makes_valid_settings():
    import tomllib

    kinds = {"rome": RomeSettings, "memit": MemitSettings, "alphaedit": AlphaEditSettings}
    tables = tomllib.loads(SETTINGS_FILE.read_text())
    for name, entry in tables["model"].items():
        kind = "gpt2" if "gpt2" in name else "llama"
        for method, settings in kinds.items():
            table = merge(tables["type"][kind][method], entry[method])
            del table["depth"]
            found = build(settings, table, name)
            assert 0 <= min(found.layers) <= max(found.layers) < entry["shape"][0]


@pytest.mark.parametrize(
    ("n_layers", "last", "share", "layers"),
    [(48, 0.35, 0.104, range(13, 18)), (32, 0.25, 0.16, range(4, 9)), (3, 0.35, 0.0, [1])],
)
def test_layers_by_depth_agree_with_the_published_ones(n_layers, last, share, layers):
    assert layers_by_depth(n_layers, last, share) == tuple(layers)


@pytest.mark.parametrize(("name", "clamp"), [("gpt2-medium", 2e-3), ("gpt2-large", 1e-3)])
def test_gpt2_is_fine_tuned_within_the_bounds_of_the_rome_paper(monkeypatch, name, clamp):
    """`norm_constraint` of kmeng01/rome, hparams/FT/*_constr.json; layer and rate are the same."""
    monkeypatch.setattr(hyperparameters, "_entry", lambda model: name)
    found, _ = settings_for(tiny_model("gpt2"), "ft-l", FineTuneSettings)
    assert (found.layers, found.clamp, found.learning_rate) == ((0,), clamp, 5e-4)


def test_gpt2_xl_is_fine_tuned_as_easyedit_does(model, monkeypatch):
    monkeypatch.setattr(hyperparameters, "_entry", lambda model: "gpt2-xl")
    found, origin = settings_for(model, "ft-l", FineTuneSettings, [0])
    assert (found.clamp, found.batch_size, found.steps) == (5e-4, 3, 25)
    assert origin.settings == "table of gpt2-xl"


def test_a_model_of_another_shape_does_not_get_a_famous_names_layers(model):
    original = model.name
    try:
        model.name = "someone/gpt2-xl"
        found, origin = settings_for(model, "rome", RomeSettings)
    finally:
        model.name = original
    assert found.layers == (1,)
    assert origin.layers.startswith("default by depth")


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct@main", "smollm2-135m"),
        ("models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("SmolLM2-135M-Instruct-Q4_K_M.gguf", "smollm2-135m"),
        ("smollm2-135m-instruct-f16.gguf", "smollm2-135m"),
        ("gpt2-xl.gguf", ""),  # another shape
        ("SmolLM2-135M-Instruct-mine.gguf", ""),  # other weights
        ("SmolLM2-135M-Instruct-mine", ""),
    ],
)
def test_the_same_weights_have_their_settings_under_each_of_their_names(name, entry):
    shaped = tiny_model("llama")
    shaped.name, shaped.n_layers, shaped.d_model = name, 30, 576
    assert hyperparameters._entry(shaped) == entry


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        ("rome", {"value": {"kl_factor": -1e9}}, "kl_factor is at least 0, not -1e+09"),
        ("rome", {"value": {"learning_rate": 0}}, "learning_rate is above 0, not 0"),
        ("rome", {"value": {"weight_decay": float("nan")}}, "weight_decay is a finite number"),
        ("rome", {"value": 5}, "rome.value takes a ValueSettings or its values, not 5"),
        ("rome", {"contexts": 0}, "rome.contexts takes a ContextSettings"),
        ("rome", {"contexts": -1}, "rome.contexts takes a ContextSettings"),
        ("rome", {"contexts": {"lengths": [1]}}, "lengths is at least 2"),
        ("rome", {"contexts": {"copies": 2.5}}, "copies takes a whole number"),
        ("memit", {"covariance_weight": float("inf")}, "covariance_weight is a finite number"),
        ("alphaedit", {"ridge": 0}, "ridge is above 0"),
        ("ft", {"steps": 0}, "steps is at least 1"),
        ("ft", {"batch_size": 0}, "batch_size is at least 1"),
        ("dinm", {"clamp": float("nan")}, "clamp is a finite number"),
        ("dinm", {"shipped": "yes"}, "shipped takes true or false"),
    ],
)
def test_settings_without_sense_are_refused_in_one_line(model, method, settings, reason):
    with pytest.raises(OptionError, match=re.escape(reason)) as caught:
        edit(model, REQUEST, method, layers=[1], settings=settings)
    assert "\n" not in str(caught.value)


def test_one_value_of_a_nested_class_leaves_its_others_as_the_method_has_them():
    found = build(MemitSettings, {"layers": [1], "value": {"steps": 3}, "contexts": {"top_k": 2}})
    assert found.value == ValueSettings(steps=3, clamp=0.75)
    assert found.contexts == replace(MEMIT_CONTEXTS, top_k=2)
