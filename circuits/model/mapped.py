"""Weights that several processes of one machine have in common: a file mapped into each's memory.

The mapping is private: a process that writes to a weight, as an edit does, gets its own copy of the
pages that it changes, and no other process sees the change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Of every weight, as torch's own allocations have it: kernels take the same ways."""


def place(folder: Path, name: str, dtype: torch.dtype) -> Path:
    """Where a model's weights of this type are, or are to be."""
    return folder / f"{sha256(f'{name} {dtype}'.encode()).hexdigest()[:16]}.weights"


def write(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Weights to a file, which is whole as soon as it is there."""
    index: dict[str, Any] = {}
    partial = path.with_suffix(f".{os.getpid()}")
    with open(partial, "wb") as file:
        for name, value in parameters.items():
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            index[name] = [str(value.dtype).removeprefix("torch."), list(value.shape), file.tell()]
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(raw.numpy().data)
    _index(path).write_text(json.dumps(index), "utf-8")
    os.replace(partial, path)


def read(path: Path) -> dict[str, Tensor]:
    """The weights of a file that `write` made, of which no more is in memory than is looked at."""
    size = path.stat().st_size
    storage: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    found = {}
    for name, (kind, shape, start) in json.loads(_index(path).read_text("utf-8")).items():
        dtype = getattr(torch, kind)
        whole = torch.empty(0, dtype=dtype).set_(storage, 0, (size // dtype.itemsize,), (1,))
        place, count = start // dtype.itemsize, torch.Size(shape).numel()
        found[name] = whole[place : place + count].view(shape)
    return found


def _index(path: Path) -> Path:
    return path.with_suffix(".json")
