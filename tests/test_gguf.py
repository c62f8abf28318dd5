"""A GGUF file is the model and the tokenizer that were written into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, get_tensor_name_map, quantize
from gguf.constants import MODEL_ARCH, TokenType

from circuits.base.errors import ModelNotFoundError, UnsupportedArchitectureError
from circuits.model.model import load
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf

MODELS = {"gpt2": gpt2_hf, "llama": llama_hf}
PLAIN, BLOCKS = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_1


def stored_rows(kind: str, config: Any, name: str, value: torch.Tensor) -> np.ndarray:
    """A weight as converters of llama.cpp store it."""
    array = value.detach().numpy()
    if kind == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_key_value_heads if "k_proj" in name else config.num_attention_heads
        halves = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
        array = halves.swapaxes(1, 2).reshape(array.shape)
    if kind == "gpt2" and array.ndim == 2 and (".attn." in name or ".mlp." in name):
        array = array.T
    return np.ascontiguousarray(array)


def write(
    path: Path,
    kind: str,
    quantisation: GGMLQuantizationType = PLAIN,
    *,
    bos: bool | None = None,
    more: dict[str, np.ndarray] | None = None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Write a tiny model; it, and what the file's blocks hold by the model's own names."""
    model = MODELS[kind]()
    config, tokenizer = model.config, byte_level_tokenizer(model.config.vocab_size)
    writer = GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if kind == "llama":
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    else:
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
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
    names = get_tensor_name_map(MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    held = {}
    for name, value in model.named_parameters():
        layer, _, leaf = name.rpartition(".")
        array = stored_rows(kind, config, name, value)
        which = quantisation if array.ndim == 2 else PLAIN
        blocks = quantize(array, which)
        writer.add_tensor(f"{names.get_name(layer)}.{leaf}", blocks, raw_dtype=which)
        held[name] = dequantize(blocks, which)
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, held


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_of_plain_weights_is_the_model_that_was_written(kind: str, tmp_path: Path):
    path = tmp_path / "model.gguf"
    written, _ = write(path, kind)
    tokens = torch.tensor([[0, 5, 9, 12, 7]])
    with torch.no_grad():
        expected = written(tokens).logits[:, -1]
        found = load(path, device="cpu").last_logits(tokens)
    torch.testing.assert_close(found, expected)


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
    write(path, "llama", more={"rope_freqs.weight": np.ones(4, np.float32)})
    with pytest.raises(UnsupportedArchitectureError, match="scaled rotary"):
        load(path, device="cpu")


def test_another_architecture_is_refused_by_name(tmp_path: Path):
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedArchitectureError, match=r"'mamba'.*covered: gpt2, llama"):
        load(tmp_path / "model.gguf", device="cpu")


def test_a_folder_of_two_files_and_a_file_that_is_none_are_refused(tmp_path: Path):
    write(tmp_path / "a.gguf", "llama")
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF files.*a\.gguf"):
        load(tmp_path, device="cpu")
    (tmp_path / "weights.bin").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"is a file; .*\.gguf"):
        load(tmp_path / "weights.bin", device="cpu")
