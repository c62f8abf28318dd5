"""Second moments as ROME, MEMIT and EasyEdit keep them: one `.npz` file a layer.

A file holds the sum of k k^T over the tokens it counted, and their number; its name begins with the
module whose input the keys are, `transformer.h.17.mlp.c_proj_float32_mom2_100000.npz`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from circuits.base.errors import FileFormatError, OptionError

SUM, COUNT = "mom2.mom2", "mom2.count"
_LAYER = re.compile(r"\.(\d+)\.")
_ROOM = 2**16
"""Bytes of a file's small entries and headers."""


def published_files(path: Path, layers: Sequence[int]) -> dict[int, Path]:
    """The file of each layer: `path` is one, or a folder of them; by the layer in a file's name.

    OptionError where a layer has none, or two.
    """
    every = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    found: dict[int, list[Path]] = {layer: [] for layer in layers}
    for each in every:
        named = _LAYER.search(each.name)
        if named is None and len(every) == len(layers) == 1:
            return {layers[0]: each}
        if named is not None and int(named[1]) in found:
            found[int(named[1])].append(each)
    for layer, files in found.items():
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise OptionError(
                f"{path} has {names} for the second moments of layer {layer}: one .npz file a layer"
            )
    return {layer: files[0] for layer, files in found.items()}


def read_published(files: Mapping[int, Path], sizes: Mapping[int, int]) -> dict[int, Tensor]:
    """E[k k^T] of each layer in double precision; `sizes` are the lengths of its keys.

    FileFormatError for a file that holds something else, is damaged, or is of another size.
    """
    return {layer: _read(file, sizes[layer]) for layer, file in files.items()}


def digests(files: Mapping[int, Path]) -> dict[str, str]:
    """SHA-256 of each file by its name."""
    found = {}
    for path in files.values():
        with path.open("rb") as file:
            found[path.name] = file_digest(file, "sha256").hexdigest()
    return found


def _read(path: Path, size: int) -> Tensor:
    try:
        with ZipFile(path) as packed:
            unpacked = sum(entry.file_size for entry in packed.infolist())
        if unpacked > 8 * size * size + _ROOM:
            raise FileFormatError(path, f"holds more than second moments of {size} entries take")
        with np.load(path, allow_pickle=False) as file:
            total, count = np.asarray(file[SUM]), np.asarray(file[COUNT])
    except OSError as error:
        raise FileFormatError(path, error.strerror or "cannot be read") from None
    except KeyError:
        raise FileFormatError(path, f"has no {SUM} and {COUNT}") from None
    except (BadZipFile, zlib.error, ValueError, EOFError, MemoryError, RuntimeError):
        # NotImplementedError, of a packing that is not known, is a RuntimeError.
        raise FileFormatError(path, "is no .npz file of second moments") from None
    if total.dtype.kind != "f" or total.shape != (size, size):
        shape = " x ".join(map(str, total.shape))
        raise FileFormatError(path, f"holds {shape} second moments; the keys have {size} entries")
    if count.dtype.kind not in "iuf" or count.size != 1 or not float(count.reshape(())) > 0:
        raise FileFormatError(path, f"has no positive number as {COUNT}")
    moments = torch.from_numpy(total.astype(np.float64)) / float(count.reshape(()))
    if not bool(torch.isfinite(moments).all()):
        raise FileFormatError(path, "holds numbers that are not finite")
    return moments
