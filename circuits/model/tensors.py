"""A model's weights as tensors: their type, device and hash, and whether all are numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import torch

from circuits.base.errors import OptionError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ALIGNMENT = 64
"""Bytes: where torch itself puts what it allocates."""


def parse_dtype(dtype: str) -> torch.dtype:
    """`fp32`, `bf16` or `fp16` as a torch type."""
    if dtype not in DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    return DTYPES[dtype]


def dtype_name(dtype: torch.dtype) -> str:
    """The name that `parse_dtype` takes; of any other type torch's own."""
    names = {known: name for name, known in DTYPES.items()}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def at_least_fp32(value: torch.Tensor) -> torch.Tensor:
    """In fp32 where it is coarser: sums lose digits of half-precision numbers, squares overflow."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def parse_device(device: str | None) -> torch.device:
    """The named device, by default a GPU of CUDA or else the CPU; OptionError where it is absent.

    MPS is used where it is named: TransformerLens warns of wrong results of PyTorch's MPS, and it
    has no double precision (`check_double`).
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise OptionError(f"{device!r} is no device; use cpu, cuda, cuda:N or mps") from None
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if wanted.type not in counts:
        raise OptionError(f"device {device!r} is not covered; use cpu, cuda, cuda:N or mps")
    if (wanted.index or 0) >= counts[wanted.type]:
        raise OptionError(f"device {device!r} is not available on this machine; use `device` cpu")
    return wanted


def check_double(device: torch.device) -> None:
    """OptionError for a device without double precision, which second moments and edits need."""
    if device.type == "mps":
        raise OptionError("this needs double precision, which mps does not have; use `device` cpu")


Use = Callable[[torch.Tensor], torch.Tensor]
"""Told of a weight that is about to be read."""


@torch.no_grad()
def align(parameters: Iterable[torch.Tensor]) -> None:
    """Move weights that begin at an odd address, as a file may have them, to one of torch's own.

    Kernels take another way at odd addresses, and the last bits of what a model says then depend on
    how its files were written.
    """
    for value in parameters:
        if value.data_ptr() % ALIGNMENT:
            value.data = value.data.clone()


def first_not_finite(parameters: Mapping[str, torch.Tensor], use: Use | None = None) -> str | None:
    """Name of the first of these that holds NaN or infinity."""
    for name, value in parameters.items():
        value = use(value) if use else value
        # A sum shows both and takes no memory; it can overflow by itself, so then one looks.
        if not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all()):
            return name
    return None


def weights_hash(parameters: Mapping[str, torch.Tensor], use: Use | None = None) -> str:
    """sha256 over all parameters' names and bytes, in order of name."""
    digest = sha256()
    for name, parameter in sorted(parameters.items()):
        digest.update(name.encode())
        parameter = use(parameter) if use else parameter
        raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
