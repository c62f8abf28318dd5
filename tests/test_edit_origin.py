"""An edit is made for one model's weights, and is not applied to others without being told to."""

from __future__ import annotations

import pytest
import torch

from circuits.base.errors import OptionError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.control import control
from circuits.edits.methods.run import edit
from circuits.edits.provenance import bos_of
from circuits.edits.requests import as_dict
from circuits.model.model import Model
from locate.compare import about_the_edit, requests_of
from tests.edits import OTHER, REQUEST
from tests.tiny import tiny_model

FORMS = {
    "itself": lambda delta, model: delta,
    "a multiple": lambda delta, model: 0.5 * delta,
    "its opposite": lambda delta, model: -delta,
    "a control": lambda delta, model: control(delta, model, 0),
    "a sum": lambda delta, model: delta + delta,
    "all of it": lambda delta, model: -(control(2.0 * delta, model, 0) - delta),
}


def made(model: Model, request: EditRequest = REQUEST) -> WeightDelta:
    delta = edit(model, request, "ft", layers=[1]).delta
    assert delta is not None
    return delta


def other_weights(model: Model) -> Model:
    """The same model after a step of training, so to say."""
    other = tiny_model("llama" if model.uses_rms_norm else "gpt2")
    name = other.mlp_output_name(0)
    other.set_parameter(name, 1.01 * other.parameter(name))
    return other


@pytest.mark.parametrize("form", FORMS)
def test_an_edit_of_other_weights_is_refused_in_whatever_form(model, form):
    delta, other = FORMS[form](made(model), model), other_weights(model)
    kept = other.parameter(other.mlp_output_name(1)).clone()
    with pytest.raises(OptionError, match=r"other weights.*allow_mismatch"), delta.applied(other):
        pytest.fail("it was applied")
    assert torch.equal(other.parameter(other.mlp_output_name(1)), kept)
    with delta.applied(other, allow_mismatch=True):
        assert other.provenance["edits"] == [delta.fingerprint()]
        assert other.provenance["edits_of_other_weights"] == [delta.fingerprint()]
    assert "edits_of_other_weights" not in other.provenance
    with delta.applied(model):
        assert "edits_of_other_weights" not in model.provenance


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bos", [False, True])
def test_the_edited_facts_are_asked_as_the_edit_was_made(model, form, bos):
    request = EditRequest("The capital of {} is", "Peru", "Paris", "Lima", "country_capital")
    delta = edit(model, request, "ft", layers=[1], bos=bos).delta
    assert delta is not None
    asked = about_the_edit(model, FORMS[form](delta, model))
    assert {pair.clean.bos for pair in (*asked.before, *asked.after)} == {bos}


def test_parts_that_were_made_with_and_without_bos_are_asked_the_models_way(model):
    one, other = (edit(model, REQUEST, "ft", layers=[1], bos=bos).delta for bos in (False, True))
    assert one is not None
    assert other is not None
    assert bos_of((one + other).provenance) is None
    assert bos_of({"sum": "damaged"}) is None


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_edit_names_its_requests(model, form):
    assert requests_of(FORMS[form](made(model), model)) == [REQUEST]


def test_an_edit_let_pass_says_what_it_was_made_for_and_is_the_same_change(model):
    delta, other = made(model), other_weights(model)
    passed = delta.fitted_to(other, allow_mismatch=True)
    assert passed.provenance["made_for"] == [model.provenance["weights_sha256"]]
    assert passed.fingerprint() == delta.fingerprint()
    assert passed.fitted_to(other) is passed
    assert delta.fitted_to(model) is delta


def test_an_edit_made_upon_another_fits_as_the_first_does(model):
    first = made(model)
    with first.applied(model):
        second = made(model, OTHER)
        with second.applied(model):
            nested = model.parameter(model.mlp_output_name(1)).clone()
    with (first + second).applied(model):
        both = model.parameter(model.mlp_output_name(1))
        torch.testing.assert_close(both, nested, rtol=1e-5, atol=1e-6)


def test_an_edit_lifted_inside_another_leaves_the_weights_hash_of_the_model_below(model):
    own = model.provenance["weights_sha256"]
    first, second = made(model), made(model, OTHER)
    with first.applied(model):
        with second.applied(model):
            pass
        assert model.provenance["weights_sha256"] == own
        assert model.provenance["edits"] == [first.fingerprint()]
    assert model.provenance["weights_sha256"] == own


def test_an_edit_fits_while_a_view_of_the_model_with_another_bos_holds_one(model):
    view = model.with_bos(not model.tokenizer.use_bos(None))
    first, second = made(model), made(view, OTHER)
    with first.applied(view), second.applied(model):
        assert model.placed[-1].delta is second


def test_a_sum_with_an_edit_of_other_weights_fits_neither_model(model):
    other = other_weights(model)
    both = made(model) + made(other, OTHER)
    for each in (model, other):
        with pytest.raises(OptionError, match="other weights"):
            both.fitted_to(each)


def test_a_change_that_does_not_say_what_it_was_made_for_fits(model):
    name = model.mlp_output_name(1)
    bare = WeightDelta({name: torch.ones_like(model.parameter(name))}, {"sum": [3], "edit": "x"})
    with bare.applied(model):
        assert model.provenance["edits"] == [bare.fingerprint()]


def test_an_edit_records_its_requests_as_files_of_requests_do(model):
    assert made(model).provenance["requests"] == [as_dict(REQUEST, probes=False)]
