"""Models that also read images: their language model is read, and says what the whole says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from circuits.base.errors import ModelNotFoundError, UnsupportedArchitectureError
from circuits.model.model import Model, load
from circuits.model.wrapped import WRAPPERS
from locate.edges.eap import attribute
from tests.families import TOKENIZER, family_hf, family_pairs

SIZES = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
SIGHT: dict[str, Any] = {**SIZES, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
WHOLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("gemma3_text", SIGHT, {"mm_tokens_per_image": 4}),
    "llava": ("llama", {**SIGHT, "model_type": "clip_vision_model", "projection_dim": 8}, {}),
    "mistral3": ("mistral", {**SIGHT, "model_type": "pixtral", "head_dim": 4}, {}),
}
"""By model type the family of the language model, the part that sees, and what else is said."""
IDS = torch.tensor([[0, 2, 3, 4, 5, 10]])


def save_whole(kind: str, folder: Path) -> torch.nn.Module:
    """A random model of the kind in a folder, around a language model of `tests.families`."""
    family, sight, more = WHOLES[kind]
    language = family_hf(family, torch.float32)
    config = transformers.AutoConfig.for_model(
        kind, text_config=language.config.to_dict(), vision_config=sight, **more
    )
    whole = transformers.AutoModelForImageTextToText.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    whole.model.language_model.load_state_dict(language.model.state_dict())
    whole.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return whole.eval()


def test_every_kind_is_tried() -> None:
    assert set(WHOLES) == set(WRAPPERS)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "disk", "shared"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_language_model_says_what_the_whole_says_of_a_text(
    kind: str, way: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, shared = tmp_path / "model", tmp_path / "shared"
    shared.mkdir()
    whole = save_whole(kind, folder)
    capfd.readouterr()
    options: dict[str, dict[str, Any]] = {
        "disk": {"device_map": "disk"},
        "shared": {"shared": shared},
    }
    model = load(folder, device="cpu", **options.get(way, {}))
    if way == "shared":  # the second process of a sweep
        model = load(folder, device="cpu", shared=shared)
    assert capfd.readouterr().err == ""
    with torch.no_grad():
        expected = whole(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -1]
        torch.testing.assert_close(model.last_logits(IDS), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.03
    assert model.provenance["language_model_of"] == kind
    assert model.config.model_type == WHOLES[kind][0]
    scores = attribute(model, family_pairs(model)).values
    assert (scores != 0).any()


def test_weights_that_are_called_as_modules_are_read_too(tmp_path: Path) -> None:
    """Files that name the language model within the whole, `model.language_model`."""
    whole = save_whole("gemma3", tmp_path)
    expected = load(tmp_path, device="cpu").last_logits(IDS)
    weights = {name: value.contiguous() for name, value in whole.state_dict().items()}
    weights.pop("lm_head.weight")  # the embedding's
    assert any(name.startswith("model.language_model.layers") for name in weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    torch.testing.assert_close(load(tmp_path, device="cpu").last_logits(IDS), expected)


def test_a_weight_too_few_or_too_many_is_still_refused(tmp_path: Path) -> None:
    save_whole("gemma3", tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    extra = {"language_model.model.extra": torch.ones(2)}
    save_file(weights | extra, path, {"format": "pt"})
    with pytest.raises(ModelNotFoundError, match="no place for"):
        load(tmp_path, device="cpu")
    weights.pop(name)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelNotFoundError, match=r"layers\.0\.mlp\.up_proj\.weight' missing"):
        load(tmp_path, device="cpu")


def test_what_the_whole_says_of_itself_counts(tmp_path: Path) -> None:
    save_whole("llava", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UnsupportedArchitectureError, match="is quantised"):
        load(tmp_path, device="cpu")
    config["text_config"]["model_type"] = "bloom"
    path.write_text(json.dumps(config))
    with pytest.raises(UnsupportedArchitectureError, match="'bloom', which is not covered"):
        load(tmp_path, device="cpu")


def test_a_whole_in_memory_is_no_language_model(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="only its language model is"):
        Model.from_hf(save_whole("gemma3", tmp_path), TOKENIZER, "mine")
