"""The weights of a Hugging Face directory one after the other, out of its safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from circuits.model.wrapped import WRAPPERS, text_name


def stored_weights(folder: Path, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Names and values of a language model's weights, numbers with a point in this type.

    A file is opened for each of them, because all that was read of an open one stays in memory.
    """
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text("utf-8"))
    wrapped = config.get("model_type") in WRAPPERS
    for path in _files(folder):
        with safe_open(path, "pt") as file:
            names = list(file.keys())
        for name in names:
            own = text_name(name) if wrapped else name
            if own is None:
                continue
            with safe_open(path, "pt") as file:
                value: Tensor = file.get_tensor(name)
                yield own, value.to(dtype) if value.is_floating_point() else value


def folder_at_hand(name: str, revision: str | None, local_only: bool) -> Path | None:
    """Where the safetensors files of a model are on this machine; None where they are not."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return Path(name)
    found = local_only and try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _files(folder: Path) -> list[Path]:
    """The files that `transformers` would read."""
    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    if whole.is_file() or not index.is_file():
        return [whole]
    names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    return [folder / name for name in sorted(names)]
