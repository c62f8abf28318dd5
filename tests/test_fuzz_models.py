"""Damaged model directories: each loads as a finite model or is refused in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from circuits.base.errors import KnowledgeCircuitsError
from circuits.model.model import load
from tests.fuzzing import chance, tried
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf, metaspace_tokenizer

DAMAGED = 100
"""Directories of each kind."""

VALUES = [0, -5, 3, 7, 2**64, 1.5, "x", "", [], [1], {}, None, True, float("inf")]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def sound(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    if request.param == "gpt2":
        model, tokenizer = gpt2_hf(layers=1, heads=2, width=8), byte_level_tokenizer()
    else:
        model, tokenizer = llama_hf(layers=1, heads=2, kv_heads=1, width=8), metaspace_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def damage(folder: Path, draw: random.Random) -> str:
    """Change one thing; returns what."""
    path = draw.choice(sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")))
    if path.name in ("config.json", "tokenizer_config.json") and draw.random() < 0.8:
        record = json.loads(path.read_text())
        key, value = draw.choice(sorted(record)), draw.choice(VALUES)
        record[key] = value
        path.write_text(json.dumps(record))
        return f"{path.name}: {key} = {value!r}"
    raw = bytearray(path.read_bytes())
    at = draw.randrange(len(raw))
    if draw.random() < 0.3:
        path.write_bytes(raw[:at])
        return f"{path.name}: cut at {at}"
    raw[at] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)
    return f"{path.name}: bit of byte {at}"


@pytest.mark.slow
def test_every_damaged_directory_is_a_finite_model_or_one_line(sound: Path, tmp_path: Path):
    draw, outcomes = chance(sound.name), Counter()
    faults = []
    for number in range(DAMAGED):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        done = damage(folder, draw)
        try:
            model = load(folder, device="cpu")
        except KnowledgeCircuitsError as error:
            outcomes["refused"] += 1
            if "\n" in str(error) or len(str(error)) > 1000:
                faults.append(f"{done}: not one line: {error}")
        except Exception as error:
            faults.append(f"{done}: {type(error).__name__}: {error}")
        else:
            outcomes["loaded"] += 1
            with torch.no_grad():
                logits = model.last_logits(torch.tensor([[1, 2, 3]]))
            if not bool(torch.isfinite(logits).all()):
                faults.append(f"{done}: logits are not finite")
    tried(DAMAGED)
    assert not faults, "\n".join(faults)
    assert min(outcomes["refused"], outcomes["loaded"]) > 0
