"""Values past a norm that follows the MLP: the nearest that the norm lets through, over layers."""

from __future__ import annotations

import pytest
import torch

from circuits.edits.edit import EditRequest
from circuits.edits.methods.run import EditOutcome, edit
from circuits.edits.parts.reaching import nearest, raw_change
from circuits.model.model import Model
from tests.families import TOKENIZER, family_hf, family_model

REQUEST = EditRequest("The capital of {} is", "France", "Oslo")
AT_ONCE = {"memit": {"covariance_weight": 1e-3}, "alphaedit": {"threshold": 1.5, "ridge": 1e-6}}


def deep_model(family: str) -> Model:
    hf = family_hf(family, torch.float32, num_hidden_layers=4)
    return Model.from_hf(hf, TOKENIZER, family)


def edited(model: Model, method: str, layers: list[int]) -> EditOutcome:
    settings = {
        "contexts": {"copies": 0},
        "value": {"steps": 20, "kl_factor": 0.0, "clamp": 4.0},
        **AT_ONCE[method],
    }
    return edit(model, REQUEST, method, layers=layers, settings=settings, moments="identity")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_nearest_on_an_ellipse_by_hand() -> None:
    rate, length = torch.tensor([2.0, 1.0]).double(), torch.ones(2, 1).double()
    wanted = torch.tensor([[5.0, 0.0], [0.0, 3.0]]).double()
    found = nearest(rate, wanted, length)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double())
    inside = nearest(rate, torch.tensor([[0.1, 0.5]]).double(), length[:1])
    assert (rate * inside)[0].tolist() != [0.1, 0.5], "what is inside is not reached either"
    assert float(inside.norm()) == pytest.approx(1)


def test_no_other_vector_of_the_length_is_nearer() -> None:
    rate, wanted = 0.2 + draw(6).abs(), 3 * draw(4, 6, seed=1)
    length = 0.5 + draw(4, 1, seed=2).abs()
    found = nearest(rate, wanted, length)
    torch.testing.assert_close(found.norm(dim=-1, keepdim=True), length)
    others = draw(20000, 4, 6, seed=3)
    close = found + 0.01 * others
    for tried in (others, close):
        tried = tried / tried.norm(dim=-1, keepdim=True) * length
        distance = (rate * tried - wanted).norm(dim=-1)
        assert bool((distance >= (rate * found - wanted).norm(dim=-1) - 1e-12).all())


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "olmo2"])
def test_what_the_norm_lets_through_is_reached_exactly(family: str) -> None:
    model = family_model(family)
    written, other = draw(3, model.d_model), draw(3, model.d_model, seed=1)
    other = other * (written.norm(dim=-1) / other.norm(dim=-1))[:, None]
    before, wanted = (model.after_mlp(0, x[:, None])[:, 0] for x in (written, other))
    change = raw_change(model, 0, written, wanted - before)
    # The model's own norm, by which `wanted` was made, is in single precision.
    torch.testing.assert_close(change, other - written, rtol=1e-5, atol=1e-6)
    past = model.after_mlp(0, (written + 10 * change)[:, None])[:, 0]
    assert not torch.allclose(past - before, 10 * (wanted - before)), "a norm is no sum"
    torch.testing.assert_close(
        (written + raw_change(model, 0, written, 10 * (wanted - before))).norm(dim=-1),
        written.norm(dim=-1),
    )


def test_without_a_norm_the_change_is_the_gain() -> None:
    model = family_model("qwen2")
    written, gain = draw(3, model.d_model), draw(3, model.d_model, seed=1)
    torch.testing.assert_close(raw_change(model, 0, written, gain), gain)


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_an_edit_past_norms_reaches_more_through_more_layers(method: str) -> None:
    model = deep_model("gemma2")
    weights = {name: model.parameter(name).clone() for name in model.parameter_names}
    found = [edited(model, method, list(range(first, 3))) for first in (2, 1, 0)]
    reach = [each.details["reach"][0] for each in found]
    assert 0 < reach[0] < reach[1] < reach[2] < 1
    (before,), (after,) = (found[2].details[f"probability_{x}"] for x in ("before", "after"))
    assert after > 2 * before
    for name, value in weights.items():
        assert torch.equal(model.parameter(name), value)


@pytest.mark.parametrize(("method", "most"), [("memit", 1e-3), ("alphaedit", 1e-4)])
def test_without_norms_one_layer_reaches_all(method: str, most: float) -> None:
    model = family_model("qwen2", torch.float32)
    (reach,) = edited(model, method, [0]).details["reach"]
    assert reach == pytest.approx(1, abs=most)
