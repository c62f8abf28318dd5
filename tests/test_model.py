"""Loading models, and what a loaded model promises."""

from __future__ import annotations

import copy
import json
import time

import pytest
import torch
from transformers import GPT2Config

from circuits.base.errors import (
    ModelNotFoundError,
    NumericalError,
    OptionError,
    PromptError,
    UnsupportedArchitectureError,
)
from circuits.model.architectures import ARCHITECTURES, check_architecture
from circuits.model.model import Model, load
from circuits.model.packaged import embedded_models
from circuits.model.sources import embedded_checkpoints, resolve
from circuits.model.tensors import align, check_double, parse_device
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf, metaspace_tokenizer, tiny_model


@pytest.fixture
def tokens(model) -> torch.Tensor:
    return torch.randint(3, 200, (2, 7), generator=torch.Generator().manual_seed(0))


def hugging_face(kind: str):
    return gpt2_hf() if kind == "gpt2" else llama_hf()


def test_logits_are_those_of_hugging_face(kind, model, tokens):
    expected = hugging_face(kind)(tokens).logits[:, -1]
    with torch.no_grad():
        torch.testing.assert_close(model.last_logits(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 3, 6])
def test_a_shared_prefix_changes_no_logit(model, tokens, length):
    tokens[:, :length] = tokens[0, :length]
    with torch.no_grad():
        whole = model.last_logits(tokens)
        prefix = model.share_prefix(tokens[:, :length])
        assert prefix[0][0].shape[0] == 1
        rest = model.last_logits(tokens[:, length:], prefix=prefix)
    torch.testing.assert_close(rest, whole, rtol=1e-5, atol=1e-5)


def test_folded_projections_give_the_models_own_queries_keys_and_values(model, tokens):
    seen = {}
    names = ["ln1.hook_normalized", *(f"attn.{slot}.hook_out" for slot in "qkv")]
    for layer in range(model.n_layers):
        hooks = [
            (f"blocks.{layer}.{name}", lambda value, hook, at=name: seen.__setitem__(at, value))
            for name in names
        ]
        with torch.no_grad():
            model.last_logits(tokens, hooks)
        folded = model.head_projections(layer)
        ours = torch.einsum("bpd,ted->bpte", seen[names[0]], folded.weight) + folded.offset
        theirs = torch.cat([seen[name] for name in names[1:]], 2)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_no_parameter_of_a_loaded_model_tracks_gradients(model):
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())


def test_a_prompt_longer_than_the_model_takes_is_refused(model):
    with pytest.raises(OptionError, match="too long"):
        model.last_logits(torch.zeros(1, model.max_tokens + 1, dtype=torch.long))
    with pytest.raises(PromptError, match=f"the prompt 'x x.* x' is .*takes {model.max_tokens}"):
        model.tokenizer.encode("x" + " x" * model.max_tokens)


def test_a_saved_directory_loads_to_the_same_model(kind, tmp_path, tokens, model):
    tokenizer = byte_level_tokenizer() if kind == "gpt2" else metaspace_tokenizer()
    hugging_face(kind).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(loaded.last_logits(tokens), model.last_logits(tokens))
    assert loaded.provenance["weights_sha256"] == model.provenance["weights_sha256"]
    assert loaded.tokenizer.encode("The capital of Peru is").ids == (
        model.tokenizer.encode("The capital of Peru is").ids
    )


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_loads_as_such_and_answers_as_fp32_but_for_rounding(
    kind, name, dtype, tmp_path
):
    hugging_face(kind).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    rough, exact = (load(str(tmp_path), "cpu", each) for each in (name, "fp32"))
    assert rough.dtype == dtype
    ids = torch.tensor([rough.tokenizer.encode("The capital of France is").ids])
    with torch.no_grad():
        there, here = rough.last_logits(ids).float(), exact.last_logits(ids)
    torch.testing.assert_close(there, here, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_weights_stand_where_kernels_take_one_way_however_files_have_them(kind, tmp_path):
    hugging_face(kind).save_pretrained(tmp_path, max_shard_size="60KB")
    byte_level_tokenizer().save_pretrained(tmp_path)
    model = load(str(tmp_path), "cpu")
    assert {each.data_ptr() % 64 for each in model.bridge.parameters()} == {0}
    odd = torch.arange(9.0)[1:]
    value = torch.nn.Parameter(odd)
    assert value.data_ptr() % 64
    align([value])
    assert not value.data_ptr() % 64
    assert torch.equal(value, odd)


def test_a_weight_beyond_the_range_of_fp16_is_refused_in_words(tmp_path):
    model = gpt2_hf()
    with torch.no_grad():
        model.transformer.wte.weight[5, 5] = 1e6
    model.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(NumericalError, match=r"'transformer\.wte\.weight' holds .*try fp32"):
        load(str(tmp_path), device="cpu", dtype="fp16")


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(tmp_path):
    model = gpt2_hf()
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.add_tokens(["<extra>"])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="resize_token_embeddings"):
        load(str(tmp_path), device="cpu")


def test_wrapping_one_model_twice_is_refused():
    hf_model = gpt2_hf()
    Model.from_hf(hf_model, byte_level_tokenizer())
    with pytest.raises(ValueError, match="wrapped already"):
        Model.from_hf(hf_model, byte_level_tokenizer())


def test_different_weights_have_different_hashes():
    hashes = {tiny_model("gpt2", seed=seed).provenance["weights_sha256"] for seed in (0, 0, 1)}
    assert len(hashes) == 2


def test_an_unknown_model_is_refused_offline_within_seconds():
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError, match=r"'nobody/nothing'.*embedded model") as caught:
        load("nobody/nothing")
    assert time.monotonic() - start < 5
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("absent", [None, "tokenizer.json", "b.safetensors", "config.json"])
def test_only_a_whole_model_in_the_cache_is_loaded_without_the_hub(absent, tmp_path, monkeypatch):
    index = json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
    names = ["config.json", "tokenizer.json", "a.safetensors", "b.safetensors"]
    for name in [*names, "model.safetensors.index.json"]:
        (tmp_path / name).write_text(index)

    def cached(repository, file, revision=None):
        there = (tmp_path / file).is_file() and file != absent
        return str(tmp_path / file) if there else None

    asked = []
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    monkeypatch.setattr("circuits.model.sources._check_hub", lambda *names: asked.append(names))
    source = resolve("somebody/model")
    assert source.local_only is (absent is None)
    assert bool(asked) is (absent is not None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/no/such/dir", "no directory"),
        ("./nowhere", "no directory"),
        ("a b c//d", "nor a possible hub name"),
    ],
)
def test_an_impossible_name_is_refused_in_words(name, reason):
    with pytest.raises(ModelNotFoundError, match=reason):
        load(name)


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"without config\.json"):
        load(str(tmp_path))


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    gpt2_hf().save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="has no tokenizer"):
        load(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path):
    gpt2_hf().save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"layers": 4}, "missing"),
        ({"width": 64}, "of another shape"),
        ({"activation": "no-such-function"}, "no-such-function"),
        ({"layers": "three"}, "three"),
    ],
)
def test_weights_that_do_not_fit_their_configuration_are_refused(kind, changed, reason, tmp_path):
    names = {
        "gpt2": {"layers": "n_layer", "width": "n_embd", "activation": "activation_function"},
        "llama": {
            "layers": "num_hidden_layers",
            "width": "hidden_size",
            "activation": "hidden_act",
        },
    }[kind]
    hugging_face(kind).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {names[key]: value for key, value in changed.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFoundError, match=reason):
        load(str(tmp_path), device="cpu")


def test_a_missing_weight_is_not_made_up(tmp_path):
    model = gpt2_hf()
    weights = model.state_dict()
    del weights["transformer.h.1.mlp.c_proj.weight"]
    model.save_pretrained(tmp_path, state_dict=weights)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"h\.1\.mlp\.c_proj\.weight.* missing"):
        load(str(tmp_path), device="cpu")


def test_a_tokenizer_that_is_none_is_refused(tmp_path):
    gpt2_hf().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        load(str(tmp_path), device="cpu")


def test_pickled_weights_are_never_opened(tmp_path):
    model = gpt2_hf()
    model.config.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        load(str(tmp_path))


@pytest.mark.parametrize("kind_name", ["bloom", "cohere", "granite", "mpt", "olmo", "starcoder2"])
def test_an_architecture_that_is_not_covered_is_refused_by_name(kind_name, tmp_path):
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind_name]()
    with pytest.raises(UnsupportedArchitectureError, match=f"architecture '{kind_name}'"):
        check_architecture(config, "somebody/model")
    config.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitectureError):  # before any weight is read
        load(str(tmp_path))


def test_a_variant_of_a_covered_architecture_is_refused():
    config = GPT2Config(scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UnsupportedArchitectureError, match="scale_attn_by_inverse_layer_idx"):
        check_architecture(config, "gpt2-variant")


def test_every_refused_variant_is_a_field_of_its_configuration():
    from transformers import CONFIG_MAPPING

    for kind_name, row in ARCHITECTURES.items():
        config = CONFIG_MAPPING[kind_name]()
        assert all((getattr(config, key) or False) == plain for key, plain in row.plain.items())


@pytest.mark.parametrize(
    "device", ["cuda", "cuda:99", "warp", "cpu:1", "meta", "xla", "vulkan", ""]
)
def test_an_absent_device_is_refused(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(OptionError, match="device"):
        parse_device(device)


def test_a_mac_gets_the_cpu_unless_it_asks_for_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert parse_device(None).type == "cpu"
    assert parse_device("mps").type == "mps"
    with pytest.raises(OptionError, match="double precision"):
        check_double(parse_device("mps"))
    check_double(parse_device("cpu"))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(OptionError, match="dtype"):
        load("facts-gpt2", dtype="fp8")


def test_bos_is_refused_where_the_tokenizer_has_none():
    model = tiny_model("gpt2")
    model.tokenizer.hf = type(model.tokenizer.hf)(
        tokenizer_object=model.tokenizer.hf.backend_tokenizer
    )
    with pytest.raises(PromptError, match="`bos=False`"):
        model.tokenizer.encode("The capital", bos=True)


@pytest.mark.parametrize("name", embedded_models())
def test_an_embedded_model_is_asked_with_bos_and_so_is_what_is_saved_of_it(name, tmp_path):
    model = load(name, device="cpu")
    assert model.tokenizer.encode("The capital of France is").bos
    model.save_pretrained(tmp_path)
    assert load(str(tmp_path), device="cpu").tokenizer.encode("The capital of France is").bos


@pytest.mark.parametrize("name", embedded_models())
def test_an_embedded_model_recalls_a_capital(name):
    model = load(name, device="cpu")
    prompt = model.tokenizer.encode("The capital of France is")
    with torch.no_grad():
        best = int(model.last_logits(torch.tensor([prompt.ids])).argmax())
    assert model.tokenizer.token_string(best) == " Paris"


def test_checkpoints_of_an_embedded_model_load_by_name():
    names = list(embedded_checkpoints("facts-gpt2"))
    assert len(names) >= 8
    first = load(f"facts-gpt2@{names[0]}", device="cpu")
    assert first.tokenizer.encode("The capital of France is").ids[0] == 0
    with pytest.raises(ModelNotFoundError, match=f"no checkpoint 'step99'.*{names[0]}"):
        load("facts-gpt2@step99")
