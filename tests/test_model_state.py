"""A model's numbers belong to its weights as they are now, and to one run at a time."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from circuits.base.errors import (
    ModelNotFoundError,
    NumericalError,
    OptionError,
    PromptError,
    UnsupportedArchitectureError,
)
from circuits.edits.edit import WeightDelta
from circuits.graph.evaluate import run_circuits
from circuits.model.architectures import check_architecture
from circuits.model.metrics import hit_at, rank
from circuits.model.model import Model, load
from circuits.model.tensors import weights_hash
from experiments.analyses.engine.context import Context
from locate.edges.eap import attribute
from locate.states.steering import patched
from tests.tiny import byte_level_tokenizer, equal_length_pairs, gpt2_hf, tiny_model


def delta_of(model, seed: int = 0) -> WeightDelta:
    name = model.mlp_output_name(1)
    shape = model.parameter(name).shape
    return WeightDelta({name: torch.randn(shape, generator=torch.Generator().manual_seed(seed))})


def state(model) -> str:
    return weights_hash({name: model.parameter(name) for name in model.parameter_names})


def test_among_equal_logits_the_rank_is_the_middle_place():
    logits = torch.zeros(1, 9)
    assert rank(logits, torch.tensor([3])) == 4
    distinct = torch.tensor([[3.0, 1.0, 2.0]])
    assert [int(rank(distinct, torch.tensor([token]))) for token in range(3)] == [0, 2, 1]


def test_a_hit_among_k_is_a_rank_below_k():
    logits = torch.tensor([[1.0, 1.0, 0.0, 2.0, 1.0]])
    for token in range(5):
        asked = torch.tensor([token])
        for k in range(1, 6):
            assert bool(hit_at(logits, asked, k)) is (int(rank(logits, asked)) < k)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_have_no_rank(bad: float):
    with pytest.raises(NumericalError, match="not finite"):
        rank(torch.tensor([[1.0, bad, 0.0]]), torch.tensor([0]))


def test_a_message_about_nan_names_the_weight_and_advises_no_dtype_that_is_in_use():
    model = tiny_model("gpt2")
    name = model.mlp_output_name(2)
    model.parameter(name).view(-1)[3] = float("nan")
    with pytest.raises(NumericalError, match=name) as refusal:
        run_circuits(model, equal_length_pairs(model)[:1], [])
    assert "fp32" not in str(refusal.value)


@pytest.mark.parametrize("by_hand", [True, False])
def test_the_weights_hash_is_that_of_the_weights_as_they_are(by_hand: bool):
    model = tiny_model("llama")
    name, before = model.mlp_output_name(1), model.provenance["weights_sha256"]
    if by_hand:
        model.parameter(name).zero_()
    else:
        model.set_parameter(name, 3 * model.parameter(name))
    assert model.provenance["weights_sha256"] == state(model) != before


def test_a_weight_changed_inside_an_edit_is_in_the_hash_after_it():
    model = tiny_model("gpt2")
    with delta_of(model).applied(model):
        model.parameter(model.mlp_output_name(0)).zero_()
    assert model.provenance["weights_sha256"] == state(model)


def test_edits_closed_in_any_order_leave_the_weights_and_their_origin():
    model = tiny_model("gpt2")
    before, provenance = state(model), model.provenance
    first, second = delta_of(model, 1), delta_of(model, 2)
    outer, inner = first.applied(model), second.applied(model)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert model.provenance["edits"] == [second.fingerprint()]
    left = state(model)
    inner.__exit__(None, None, None)
    assert state(model) == before
    assert model.provenance == provenance
    with second.applied(model):
        assert state(model) == left


def test_a_second_thread_is_refused_while_a_model_is_in_use():
    model = tiny_model("gpt2")
    tokens = torch.tensor([[1, 2, 3]])
    with ThreadPoolExecutor(1) as pool, delta_of(model).applied(model):
        model.last_logits(tokens)
        with pytest.raises(OptionError, match="in use in another thread"):
            pool.submit(model.last_logits, tokens).result()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(model.last_logits, tokens).result()


def test_no_thread_gets_a_wrong_score_and_the_one_at_work_is_not_the_one_refused():
    model = tiny_model("gpt2")
    pairs = equal_length_pairs(model)
    right = attribute(model, pairs, steps=2).values
    outcomes = []

    def score(_: int) -> None:
        try:
            outcomes.append((attribute(model, pairs, steps=2).values == right).all())
        except OptionError:
            outcomes.append(None)

    for _ in range(6):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(score, range(2)))
    assert len(outcomes) == 12
    assert not [found for found in outcomes if found is not None and not found]
    # Of two that meet, the first goes on: every round has a result.
    assert all(any(pair) for pair in zip(outcomes[::2], outcomes[1::2], strict=True))


def test_pairs_of_another_tokenizer_are_refused():
    pairs = equal_length_pairs(tiny_model("gpt2"))
    with pytest.raises(PromptError, match="tokenised for another model"):
        run_circuits(tiny_model("llama"), pairs, [])


def test_an_output_matrix_of_its_own_is_saved_whatever_the_configuration_says(tmp_path: Path):
    hf = gpt2_hf()
    hf.lm_head.weight = torch.nn.Parameter(torch.randn_like(hf.lm_head.weight))
    from circuits.model.model import Model

    model = Model.from_hf(hf, byte_level_tokenizer())
    tokens = torch.tensor([[5, 6, 7]])
    wanted = model.last_logits(tokens)
    model.save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(read(tokens).logits[:, -1], wanted, atol=1e-4, rtol=1e-4)
    assert load(tmp_path).provenance["weights_sha256"] == model.provenance["weights_sha256"]


def saved(folder: Path, **shape: int) -> Path:
    gpt2_hf(**shape).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def edit_config(folder: Path, **values) -> None:
    import json

    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_weights_that_the_configuration_has_no_place_for_are_refused(tmp_path: Path):
    edit_config(saved(tmp_path), n_layer=2)
    with pytest.raises(ModelNotFoundError, match=r"transformer\.h\.2\..* no place"):
        load(tmp_path)


@pytest.mark.parametrize("layers", [2**64, 0, -5, 10**7])
def test_an_absurd_number_of_layers_is_refused_at_once(tmp_path: Path, layers: int):
    edit_config(saved(tmp_path), n_layer=layers)
    with pytest.raises(ModelNotFoundError, match="layers"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [("adapter_config.json", "adapter"), ("pytorch_model.bin", "pickle")],
)
def test_directories_without_plain_weights_say_what_helps(tmp_path: Path, file: str, message: str):
    saved(tmp_path)
    if file.endswith(".bin"):
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_text("{}")
    with pytest.raises(ModelNotFoundError, match=message):
        load(tmp_path)


@pytest.mark.filterwarnings("ignore:.rope_scaling. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sliding_window": 2}, "sliding_window"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised .gptq"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
    ],
)
def test_variants_that_the_formulas_do_not_cover_are_refused(fields: dict, message: str):
    config = LlamaConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(UnsupportedArchitectureError, match=message):
        check_architecture(config, "x")


@pytest.mark.parametrize("name", [None, 3])
def test_a_model_is_named_by_text_or_a_path(name):
    plain = inspect.unwrap(load)  # without the tests' own check of types
    with pytest.raises(OptionError, match="named by text or a path"):
        plain(name)


def test_words_that_are_not_utf_8_are_refused():
    tokenizer = tiny_model("gpt2").tokenizer
    with pytest.raises(PromptError, match="Unicode"):
        tokenizer.encode("The capital of \udcff")
    with pytest.raises(PromptError, match="Unicode"):
        tokenizer.continuation("The capital", "\udcff")


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_joint_weight_changed_in_place_is_what_the_model_runs_on(part: str):
    tokens, name = torch.tensor([[1, 2, 3]]), f"transformer.h.0.attn.c_attn.{part}"
    written, placed = tiny_model("gpt2"), tiny_model("gpt2")
    before = written.last_logits(tokens)
    value = 2 * placed.parameter(name) + 0.1
    placed.set_parameter(name, value)
    written.parameter(name).copy_(value)
    after = written.last_logits(tokens)
    assert torch.equal(after, placed.last_logits(tokens))
    assert not torch.equal(after, before)
    assert written.provenance["weights_sha256"] == placed.provenance["weights_sha256"]


def test_a_model_in_memory_names_its_precision_as_loading_does(model: Model, tmp_path: Path):
    """So that another model can be loaded beside it in the same precision."""
    assert model.provenance["dtype"] == "fp32"
    context = Context.on(model, tmp_path)
    assert context.load("facts-gpt2").dtype == model.dtype


@pytest.mark.parametrize("name", ["facts-gpt2", "facts-llama"])
def test_weights_that_are_cast_are_those_that_loading_gives(name: str):
    """To the last bit, in what they are and in what the model says."""
    stored, tokens = load(name, device="cpu"), torch.tensor([[5, 6, 7, 8]])
    narrow, cast = load(name, device="cpu", dtype="bf16"), stored.in_dtype("bf16")
    assert cast.provenance == narrow.provenance
    assert torch.equal(cast.last_logits(tokens), narrow.last_logits(tokens))
    assert (stored.is_as_stored, cast.is_as_stored) == (True, False)
    assert not stored.with_bos(False).is_as_stored  # its name gives the other choice
    wide = cast.in_dtype("fp32")
    for each in stored.parameter_names:
        assert torch.equal(wide.parameter(each), stored.parameter(each).bfloat16().float())
    assert stored.with_bos(False).in_dtype("bf16").tokenizer.use_bos(None) is False


def test_a_model_that_was_changed_is_not_as_it_is_stored():
    assert not tiny_model("gpt2").is_as_stored  # it was made here
    stored = load("facts-gpt2", device="cpu")
    weight = stored.mlp_output_name(0)
    with WeightDelta({weight: torch.ones(stored.shape(weight))}, {}).applied(stored):
        assert not stored.is_as_stored
    with patched(stored, "m0", to=0):
        assert not stored.is_as_stored
        with pytest.raises(OptionError, match="is patched"):
            stored.in_dtype("bf16")
    assert stored.is_as_stored
    stored.set_parameter(weight, 1e5 * torch.ones(stored.shape(weight)))
    assert not stored.is_as_stored
    with pytest.raises(NumericalError, match="not finite in fp16"):
        stored.in_dtype("fp16")
