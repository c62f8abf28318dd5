"""An edit as a value: applied and taken back exactly, added, stored, written out."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from circuits.base.errors import FileFormatError, NumericalError, OptionError
from circuits.edits.edit import EditRequest, LowRank, WeightDelta
from circuits.model.model import Model, load
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf, metaspace_tokenizer, tiny_model


def random_delta(model: Model, seed: int = 0, rank: int | None = 1) -> WeightDelta:
    """A change of every layer's MLP output matrix, low rank or dense."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for layer in range(model.n_layers):
        name = model.mlp_output_name(layer)
        rows, columns = model.parameter(name).shape
        if rank is None:
            changes[name] = torch.randn(rows, columns, generator=generator)
        else:
            left = torch.randn(rows, rank, generator=generator)
            changes[name] = LowRank(left, torch.randn(rank, columns, generator=generator))
    return WeightDelta(changes, {"method": "random", "seed": seed})


def weights(model: Model) -> dict[str, torch.Tensor]:
    own = {name: model.parameter(name).clone() for name in model.parameter_names}
    return own | {name: value.clone() for name, value in model.bridge.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.last_logits(
            torch.tensor([model.tokenizer.encode("In Peru the capital is").ids])
        )


@pytest.mark.parametrize("rank", [1, 3, None])
def test_an_edit_changes_the_model_and_is_taken_back_bit_for_bit(model, rank):
    before, plain, provenance = weights(model), logits(model), model.provenance
    delta = random_delta(model, rank=rank)
    with delta.applied(model):
        assert not torch.allclose(logits(model), plain, atol=1e-2)
        assert model.provenance["edits"] == [delta.fingerprint()]
    assert same(weights(model), before)
    assert torch.equal(logits(model), plain)
    assert model.provenance == provenance


def test_edits_inside_an_edit_leave_the_provenance_as_it_was(model):
    """Two nested changes within an applied one, as MEMIT makes them over layers in a sequence."""
    bare = model.provenance["weights_sha256"]
    with random_delta(model, 1).applied(model):
        outside = model.provenance
        with random_delta(model, 2).applied(model), random_delta(model, 3).applied(model):
            assert len(model.provenance["edits"]) == 3
        assert model.provenance == outside
        assert outside["weights_sha256"] == bare
    with random_delta(model, 1).applied(model):
        with torch.no_grad():
            model.parameter(model.mlp_output_name(0)).add_(1e-3)  # by hand: the hash must tell
        assert model.provenance["weights_sha256"] != bare


def test_an_edit_is_taken_back_after_an_exception(model):
    before = weights(model)
    with pytest.raises(KeyboardInterrupt), random_delta(model).applied(model):
        raise KeyboardInterrupt
    assert same(weights(model), before)


def test_an_applied_edit_is_a_model_with_the_change_added_to_its_weights(model):
    delta = random_delta(model)
    name = model.mlp_output_name(1)
    expected = model.parameter(name) + delta.dense(name)
    with delta.applied(model):
        assert torch.equal(model.parameter(name), expected)


def test_nested_edits_are_their_sum(model):
    one, other = random_delta(model, 0), random_delta(model, 1, rank=None)
    with one.applied(model), other.applied(model):
        nested = logits(model)
    with (one + other).applied(model):
        torch.testing.assert_close(logits(model), nested, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [1, None])
def test_an_edit_minus_itself_is_nothing(model, rank):
    delta = random_delta(model, rank=rank)
    assert (delta - delta).norm() == pytest.approx(0, abs=1e-4)
    assert (0.5 * delta).norm() == pytest.approx(0.5 * delta.norm())
    assert (-delta).norm() == pytest.approx(delta.norm())


@pytest.mark.parametrize("rank", [2, None])
def test_save_then_load_is_identity(model, tmp_path, rank):
    delta = random_delta(model, rank=rank)
    delta.save(tmp_path / "edit.kc.safetensors")
    loaded = WeightDelta.load(tmp_path / "edit.kc.safetensors")
    assert loaded.fingerprint() == delta.fingerprint()
    assert loaded.provenance == delta.provenance
    assert all(torch.equal(loaded.dense(name), delta.dense(name)) for name in delta.changes)


def test_a_damaged_edit_file_is_refused(model, tmp_path):
    path = tmp_path / "edit.kc.safetensors"
    random_delta(model).save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError):
        WeightDelta.load(path)


def test_a_saved_edited_model_gives_the_same_logits_in_transformers(model, tmp_path):
    ids = model.tokenizer.encode("In Peru the capital is").ids
    with random_delta(model).applied(model):
        expected = logits(model)
        model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    found = loaded(torch.tensor([ids])).logits[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("In Peru", add_special_tokens=False) == model.tokenizer.hf(
        "In Peru", add_special_tokens=False
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_saved_model_keeps_precision_generation_template_and_files(kind, dtype, tmp_path):
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    made = {"gpt2": (gpt2_hf, byte_level_tokenizer), "llama": (llama_hf, metaspace_tokenizer)}[kind]
    hf, tokenizer = made[0]().to(dtype), copy.deepcopy(made[1]())
    hf.generation_config.max_new_tokens = 7
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    hf.save_pretrained(source)
    tokenizer.save_pretrained(source)
    (source / "merges.txt").write_text("#version: 0.2\n")
    own = load(str(source), device="cpu")
    ids = torch.tensor([own.tokenizer.encode("In Peru the capital is").ids])
    plain = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    own.save_pretrained(saved)
    found = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager")
    assert found.dtype == plain.dtype == dtype
    assert torch.equal(found(ids).logits, plain(ids).logits)
    assert found.generation_config.max_new_tokens == 7
    assert AutoTokenizer.from_pretrained(saved).chat_template == tokenizer.chat_template
    assert (saved / "merges.txt").read_bytes() == (source / "merges.txt").read_bytes()
    (tmp_path / "usual").touch()
    modes = {path.stat().st_mode for path in saved.iterdir()}
    assert modes == {(tmp_path / "usual").stat().st_mode}


def test_generation_settings_that_are_not_valid_are_saved_as_they_were(tmp_path):
    hf = gpt2_hf()
    hf.generation_config.temperature, hf.generation_config.do_sample = 0.6, False
    own = Model.from_hf(hf, byte_level_tokenizer(), "tiny")
    own.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["temperature"] == 0.6
    assert saved["do_sample"] is False
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.temperature == 0.6


def test_an_edited_model_in_half_precision_is_read_back_as_its_rounded_weights(kind, tmp_path):
    hf, tokenizer = tiny_model(kind).to_hf().half(), tiny_model(kind).tokenizer.hf
    hf.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    own = load(str(tmp_path / "source"), device="cpu")
    with random_delta(own).applied(own):
        before = weights(own)
        own.save_pretrained(tmp_path / "saved")
        assert same(weights(own), before)
        rounded = {n: own.parameter(n).half().float() for n in own.parameter_names}
    again = load(str(tmp_path / "saved"), device="cpu")
    assert all(torch.equal(again.parameter(name), rounded[name]) for name in rounded)


def test_a_weight_too_large_for_the_files_precision_is_not_written_as_infinity(kind, tmp_path):
    hf, tokenizer = tiny_model(kind).to_hf().half(), tiny_model(kind).tokenizer.hf
    hf.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    own = load(str(tmp_path / "source"), device="cpu")
    name = own.mlp_output_name(0)
    huge = WeightDelta({name: torch.full_like(own.parameter(name), 1e6)})
    with pytest.raises(NumericalError, match="too large"), huge.applied(own):
        own.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_every_parameter_can_be_edited_and_the_run_follows(kind):
    """Also GPT-2's joint attention matrix, of which the bridge runs on copies."""
    model = tiny_model(kind)
    plain = logits(model)
    for name in model.parameter_names:
        noise = torch.randn(model.parameter(name).shape, generator=torch.Generator().manual_seed(1))
        with WeightDelta({name: noise}).applied(model):
            changed = not torch.equal(logits(model), plain)
        # A key bias shifts all scores of a query alike.
        assert changed, name
        assert torch.equal(logits(model), plain), name


def test_an_edit_that_is_not_finite_is_not_applied(model):
    before = weights(model)
    name = model.mlp_output_name(0)
    bad = torch.full(model.parameter(name).shape, float("nan"))
    with pytest.raises(NumericalError), WeightDelta({name: bad}).applied(model):
        pytest.fail("the edit was applied")
    assert same(weights(model), before)


def test_an_edit_of_another_shape_is_refused_and_nothing_is_touched(model):
    before = weights(model)
    good, bad = model.mlp_output_name(0), model.mlp_output_name(1)
    delta = WeightDelta({good: torch.ones_like(model.parameter(good)), bad: torch.ones(2, 2)})
    with pytest.raises(OptionError, match="does not fit"), delta.applied(model):
        pytest.fail("the edit was applied")
    assert same(weights(model), before)


def test_a_layer_that_is_not_there_is_refused(model):
    with pytest.raises(OptionError, match="layers 0 to 2, not 3"):
        model.mlp_output_name(3)


@pytest.mark.parametrize(
    ("prompt", "subject", "target", "reason"),
    [
        ("The capital of Peru is", "Peru", "Oslo", "once"),
        ("{} and {}", "Peru", "Oslo", "once"),
        ("The capital of {} is", " ", "Oslo", "subject"),
        ("The capital of {} is", "Peru", "", "target"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(prompt, subject, target, reason):
    with pytest.raises(OptionError, match=reason):
        EditRequest(prompt, subject, target)
