"""A GGUF file is the model and the tokenizer that were written into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, get_tensor_name_map, quantize
from gguf.constants import MODEL_ARCH, TokenType

from circuits.base.errors import ModelNotFoundError, UnsupportedArchitectureError
from circuits.model.gguf_layouts import LAYOUTS
from circuits.model.model import load
from circuits.model.sources import resolve
from tests.families import family_hf
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf

PLAIN, BLOCKS = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_1
MODELS = {"gpt2": gpt2_hf, "llama": llama_hf}
"""Wide enough for blocks."""
VOCAB = 400


@dataclass(frozen=True)
class Written:
    """How llama.cpp's converter writes a family: the file's architecture, the package's name for
    it, and the keys that go beyond sizes, by attribute of the configuration."""

    file: str
    named: str
    keys: Mapping[str, str] = field(default_factory=dict)


_HEADS = {"attention.head_count_kv": "num_key_value_heads"}
_RMS = {**_HEADS, "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_WIDE = {**_RMS, "attention.key_length": "head_dim"}
_NORM = {"attention.layer_norm_epsilon": "layer_norm_eps"}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_SHARED = {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"}
_GEMMA = {**_WIDE, "attention.sliding_window": "sliding_window"}
_CAPS = {name: name for name in ("attn_logit_softcapping", "final_logit_softcapping")}
FILES = {
    "falcon": Written("falcon", "FALCON", {"attention.layer_norm_epsilon": "layer_norm_epsilon"}),
    "gemma": Written("gemma", "GEMMA", _WIDE),
    "gemma2": Written("gemma2", "GEMMA2", _GEMMA | _CAPS),
    "gemma3_text": Written("gemma3", "GEMMA3", _GEMMA),
    "gpt2": Written("gpt2", "GPT2", {"attention.layer_norm_epsilon": "layer_norm_epsilon"}),
    "gpt_neox": Written(
        "gptneox", "GPTNEOX", _NORM | {"use_parallel_residual": "use_parallel_residual"}
    ),
    "llama": Written("llama", "LLAMA", _RMS | {"rope.dimension_count": "head_dim"}),
    "mistral": Written("llama", "LLAMA", _RMS | {"rope.dimension_count": "head_dim"}),
    "mixtral": Written("llama", "LLAMA", _RMS | _EXPERTS | {"expert_count": "num_local_experts"}),
    "olmo2": Written("olmo2", "OLMO2", _RMS),
    "phi": Written("phi2", "PHI2", _HEADS | _NORM),
    "qwen2": Written("qwen2", "QWEN2", _RMS),
    "qwen2_moe": Written("qwen2moe", "QWEN2MOE", _RMS | _EXPERTS | _SHARED),
    "qwen3": Written("qwen3", "QWEN3", _WIDE),
    "qwen3_moe": Written("qwen3moe", "QWEN3MOE", _WIDE | _EXPERTS),
    "stablelm": Written("stablelm", "STABLELM", _HEADS | _NORM),
}
ASKED: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 6},
    "gemma3_text": {"query_pre_attn_scalar": 6, "layer_types": None, "num_hidden_layers": 7},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3_moe": {"norm_topk_prob": True},
}
"""What a file cannot say otherwise, as llama.cpp has it."""


def made(kind: str, rope: dict[str, Any] | None = None, wide: dict[str, Any] | None = None) -> Any:
    """A tiny model of a family, with a vocabulary for a real tokenizer."""
    if kind in MODELS and rope is None:
        return MODELS[kind]()
    more = {"vocab_size": VOCAB} | ASKED.get(kind, {}) | (wide or {})
    return family_hf(kind, torch.float32, **more | ({"rope_parameters": rope} if rope else {}))


def stored_rows(kind: str, config: Any, name: str, value: torch.Tensor) -> np.ndarray:
    """A weight as converters of llama.cpp store it."""
    array = value.detach().numpy()
    if FILES[kind].file == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_key_value_heads if "k_proj" in name else config.num_attention_heads
        halves = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
        array = halves.swapaxes(1, 2).reshape(array.shape)
    if kind == "gpt2" and array.ndim == 2 and (".attn." in name or ".mlp." in name):
        array = array.T
    if kind == "gpt_neox" and "query_key_value" in name:
        by_head = array.reshape(config.num_attention_heads, 3, -1)
        array = by_head.swapaxes(0, 1).reshape(array.shape)
    if "gemma" in kind and name.endswith("norm.weight"):
        array = array + 1
    return np.ascontiguousarray(array)


def stored_names(kind: str, config: Any, name: str) -> list[str]:
    """The file's names of a parameter: two where experts' gate and up matrices are one."""
    names = get_tensor_name_map(MODEL_ARCH[FILES[kind].named], config.num_hidden_layers)
    layer, _, leaf = name.rpartition(".")
    if leaf == "gate_up_proj":
        block = layer.split(".")[2]
        return [f"blk.{block}.ffn_{part}_exps.weight" for part in ("gate", "up")]
    if leaf == "down_proj":
        return [f"{names.get_name(name)}.weight"]
    return [f"{names.get_name(layer)}.{leaf}"]


def write(
    path: Path,
    kind: str,
    quantisation: GGMLQuantizationType = PLAIN,
    *,
    bos: bool | None = None,
    more: dict[str, np.ndarray] | None = None,
    rope: dict[str, Any] | None = None,
    scaling: dict[str, Any] | None = None,
    wide: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Write a tiny model; it, and what the file's blocks hold by the model's own names."""
    model = made(kind, rope, wide)
    config, about = model.config, FILES[kind]
    tokenizer = byte_level_tokenizer(config.vocab_size)
    writer = GGUFWriter(path, about.file)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    wide = [
        getattr(config, each, None) for each in ("n_inner", "ffn_hidden_size", "intermediate_size")
    ]
    width = next((each for each in wide if each), 4 * config.hidden_size)
    writer.add_feed_forward_length(width)
    for key, attribute in about.keys.items():
        value = getattr(config, attribute, None)
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        if value is not None:
            add[type(value)](f"{about.file}.{key}", value)
    rotated = getattr(config, "rope_parameters", None) or {}
    rotated = rotated.get("full_attention", rotated)
    if rotated:
        writer.add_rope_freq_base(rotated["rope_theta"])
    if "partial_rotary_factor" in rotated:
        d_head = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(rotated["partial_rotary_factor"] * d_head))
    for key, value in (scaling or {}).items():
        add_value = writer.add_string if isinstance(value, str) else writer.add_float32
        add_value(f"{about.file}.rope.scaling.{key}", value)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types(
        [TokenType.CONTROL if index == 0 else TokenType.NORMAL for _, index in vocabulary]
    )
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    if bos is not None:
        writer.add_add_bos_token(bos)
    held = {}
    for name, value in model.named_parameters():
        stored = stored_rows(kind, config, name, value)
        names = stored_names(kind, config, name)
        plain = []
        for part, array in zip(
            names, np.split(stored, len(names), 1 if len(names) > 1 else 0), strict=True
        ):
            which = quantisation if array.ndim == 2 else PLAIN
            blocks = quantize(np.ascontiguousarray(array), which)
            writer.add_tensor(part, blocks, raw_dtype=which)
            plain.append(dequantize(blocks, which))
        held[name] = plain[0] if len(plain) == 1 else np.concatenate(plain, 1)
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, held


def test_every_layout_of_a_file_is_written_here():
    assert {(each.file, each.named) for each in FILES.values()} == {
        (name.split()[0], row.named) for name, row in LAYOUTS.items()
    }


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_plain_weights_is_the_model_that_was_written(kind: str, tmp_path: Path):
    path = tmp_path / "model.gguf"
    written, _ = write(path, kind)
    tokens = torch.tensor([[0, 5, 9, 12, 7]])
    with torch.no_grad():
        expected = written(tokens).logits[:, -1]
        found = load(path, device="cpu").last_logits(tokens)
    torch.testing.assert_close(found, expected)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope_factors(d_head: int) -> np.ndarray:
    """What a file of Llama 3.2 divides each frequency by, one after the other."""
    found = []
    for place in range(0, d_head, 2):
        length = 2 * np.pi * LLAMA3["rope_theta"] ** (place / d_head)
        if length < 8192 / 4:
            found.append(1.0)
        elif length > 8192:
            found.append(32.0)
        else:
            smooth = (8192 / length - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / 32 + smooth))
    return np.array(found, np.float32)


def test_stretched_rotations_are_the_models(tmp_path: Path):
    tokens = torch.tensor([[0, 5, 9, 12, 7, 30, 31, 4, 8, 9, 3]])
    linear = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    }
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 8,
    }
    wide = {"head_dim": 16}
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("llama", LLAMA3, {"more": {"rope_freqs.weight": rope_factors(16)}, "wide": wide}),
        ("gemma3_text", linear, {"scaling": {"type": "linear", "factor": 8.0}}),
        (
            "qwen2",
            yarn,
            {"scaling": {"type": "yarn", "factor": 4.0, "original_context_length": 8}},
        ),
    ]
    for kind, rope, options in cases:
        path = tmp_path / f"{kind}.gguf"
        written, _ = write(path, kind, rope=rope, **options)
        plain, _ = write(tmp_path / "plain.gguf", kind, wide=options.get("wide"), rope={})
        with torch.no_grad():
            expected = written(tokens).logits[:, -1]
            unstretched = plain(tokens).logits[:, -1]
            found = load(path, device="cpu").last_logits(tokens)
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(unstretched, expected, atol=1e-3)


@pytest.mark.parametrize("kind", MODELS)
def test_blocks_are_taken_out_exactly(kind: str, tmp_path: Path):
    path = tmp_path / "model.gguf"
    written, held = write(path, kind, BLOCKS)
    model = load(tmp_path, device="cpu")  # the folder's only file
    parameters = dict(model.to_hf().named_parameters())
    assert set(parameters) == set(held)
    for name, stored in held.items():
        ours = stored_rows(kind, written.config, name, parameters[name])
        np.testing.assert_array_equal(ours, stored)
    assert model.provenance["quantisation"].split()[0] in ("F32", "Q4_1")
    assert "Q4_1" in model.provenance["quantisation"]


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_saved_of_a_file_is_a_plain_directory(kind: str, tmp_path: Path):
    write(tmp_path / "model.gguf", kind, BLOCKS)
    model = load(tmp_path / "model.gguf", device="cpu")
    model.save_pretrained(tmp_path / "plain")
    again = load(tmp_path / "plain", device="cpu")
    assert again.provenance["weights_sha256"] == model.provenance["weights_sha256"]
    assert again.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert again.config.max_position_embeddings == model.config.max_position_embeddings


@pytest.mark.parametrize("bos", [True, False])
def test_a_file_says_whether_its_prompts_begin_with_bos(bos: bool, tmp_path: Path):
    write(tmp_path / "model.gguf", "llama", bos=bos)
    assert load(tmp_path / "model.gguf", device="cpu").tokenizer.encode("In Peru").bos is bos


def test_a_file_keeps_its_own_tokenizer_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "model.gguf"
    write(path, "llama", bos=True)
    alone = load(path, device="cpu").tokenizer
    byte_level_tokenizer(VOCAB - 20).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null, "add_bos_token": false}')
    model = load(path, device="cpu")
    assert model.tokenizer.fingerprint == alone.fingerprint
    assert model.tokenizer.hf.bos_token == alone.hf.bos_token
    assert model.tokenizer.encode("In Peru") == alone.encode("In Peru")
    assert model.tokenizer.encode("In Peru").bos
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "vocab.json").exists()
    saved = (tmp_path / "plain" / "tokenizer_config.json").read_text()
    assert "gguf" not in saved
    assert "/" not in saved
    assert load(tmp_path / "plain", device="cpu").tokenizer.fingerprint == alone.fingerprint


@pytest.mark.parametrize("kept", [0, 3, 100, 5000, 0.5, 0.99])
def test_a_file_cut_short_is_refused(kept: float, tmp_path: Path):
    path = tmp_path / "model.gguf"
    write(path, "llama")
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ModelNotFoundError) as refused:
        load(path, device="cpu")
    assert "\n" not in str(refused.value)


def test_weights_that_a_plain_model_has_no_place_for_are_refused(tmp_path: Path):
    path = tmp_path / "model.gguf"
    write(path, "llama", more={"blk.0.attn_q.bias": np.zeros(32, np.float32)})
    with pytest.raises(UnsupportedArchitectureError, match=r"blk\.0\.attn_q\.bias"):
        load(path, device="cpu")
    write(path, "llama", more={"rope_freqs.weight": np.array([1, 4, 2, 4], np.float32)})
    with pytest.raises(UnsupportedArchitectureError, match="rotary embeddings are scaled"):
        load(path, device="cpu")


def test_another_architecture_is_refused_by_name(tmp_path: Path):
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedArchitectureError, match=r"'mamba'.*covered: falcon, gemma"):
        load(tmp_path / "model.gguf", device="cpu")


def test_a_folder_of_two_files_and_a_file_that_is_none_are_refused(tmp_path: Path):
    write(tmp_path / "a.gguf", "llama")
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF files.*a\.gguf"):
        load(tmp_path, device="cpu")
    (tmp_path / "weights.bin").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"is a file; .*\.gguf"):
        load(tmp_path / "weights.bin", device="cpu")


def test_a_file_beside_a_configuration_is_the_model_unless_plain_weights_are_there(tmp_path: Path):
    write(tmp_path / "model.gguf", "llama")
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == resolve(str(tmp_path / "model.gguf"))
    llama_hf().save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    assert not resolve(str(tmp_path)).is_gguf


def test_parts_of_a_split_file_are_told_to_be_joined(tmp_path: Path):
    writer = GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=1)
    for name in ("token_embd.weight", "output_norm.weight", "output.weight"):
        writer.add_tensor(name, np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3
    for path in (*parts, tmp_path):
        with pytest.raises(ModelNotFoundError, match="one of the 3 parts of a split GGUF file"):
            load(path, device="cpu")
