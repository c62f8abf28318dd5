"""Weights in a file that is mapped into memory.

Several processes of one machine have them in common (`read`): the mapping is private, so a process
that writes to a weight, as an edit does, gets its own copy of the pages that it changes, and no
other process sees the change. Or one process keeps them there instead of in memory (`WeightFile`):
the mapping is the file itself, so what is written to a weight is in the file, and pages can be let
go of at any time.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = mmap.PAGESIZE
"""Of every weight: no two share a page, and kernels take the ways that torch's own take."""


def place(folder: Path, name: str, dtype: torch.dtype) -> Path:
    """Where a model's weights of this type are, or are to be."""
    return folder / f"{sha256(f'{name} {dtype}'.encode()).hexdigest()[:16]}.weights"


def write(path: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Weights to a file, one after the other; it is whole as soon as it is there."""
    index: dict[str, Any] = {}
    partial = path.with_suffix(f".{os.getpid()}")
    with open(partial, "wb") as file:
        for name, value in weights:
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            index[name] = [str(value.dtype).removeprefix("torch."), list(value.shape), file.tell()]
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(raw.numpy().data)
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
    _index(path).write_text(json.dumps(index), "utf-8")
    os.replace(partial, path)


def read(path: Path) -> dict[str, Tensor]:
    """The weights of a file that `write` made, of which no more is in memory than is looked at."""
    size = path.stat().st_size
    storage: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    return _tensors(path, storage)


class WeightFile:
    """A file of weights that is this process's alone, and is gone when nobody uses them."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._whole = torch.frombuffer(self._map, dtype=torch.uint8)
        self._storage = self._whole.untyped_storage()
        self.weights = _tensors(path, self._storage)
        sizes = {self._offset(each): each.nbytes for each in self.weights.values()}
        self._starts = sorted(sizes)
        self._sizes = [sizes[start] for start in self._starts]

    @classmethod
    def of(cls, weights: Iterable[tuple[str, Tensor]]) -> WeightFile:
        """A file of these in the temporary folder, without a name: it cannot be left behind."""
        with tempfile.TemporaryDirectory(prefix="kc-weights-") as folder:
            path = Path(folder) / "own.weights"
            write(path, weights)
            return cls(path)

    def place(self, value: Tensor) -> int | None:
        """Which weight of the file this is one, or a part, of; None where it is none."""
        if value.device.type != "cpu" or value.untyped_storage()._cdata != self._storage._cdata:
            return None
        return bisect_right(self._starts, self._offset(value)) - 1

    def nbytes(self, place: int) -> int:
        """Bytes of a weight."""
        return self._sizes[place]

    def release(self, place: int) -> None:
        """Let go of a weight's pages; whoever looks at it next has them read again."""
        pages = -(-self._sizes[place] // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, self._starts[place], pages)

    def _offset(self, value: Tensor) -> int:
        return value.data_ptr() - self._whole.data_ptr()


def _tensors(path: Path, storage: Any) -> dict[str, Tensor]:
    size, found = storage.nbytes(), {}
    for name, (kind, shape, start) in json.loads(_index(path).read_text("utf-8")).items():
        dtype = getattr(torch, kind)
        whole = torch.empty(0, dtype=dtype).set_(storage, 0, (size // dtype.itemsize,), (1,))
        place, count = start // dtype.itemsize, torch.Size(shape).numel()
        found[name] = whole[place : place + count].view(shape)
    return found


def _index(path: Path) -> Path:
    return path.with_suffix(".json")
