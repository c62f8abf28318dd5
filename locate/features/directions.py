"""What features read and write: a direction in and a direction out for each, and a file of them.

A feature of a transcoder stands at a layer's MLP, in whose place it reads and writes (Dunefsky et
al. 2024). Its encoder e and decoder d are vectors of the model's width: the feature's
pre-activation is e times what is read, plus a bias, and d times its activation is what it writes.
An MLP's own neurons are features of this kind (`locate.features.neurons`).

A file of directions is a plain safetensors file with four tensors, one row a feature,

    layer     integer  [feature]          whose MLP the feature stands at, from 0
    index     integer  [feature]          its number in that layer
    encoder   float    [feature d_model]  e
    decoder   float    [feature d_model]  d

and two words of metadata. `reads` is "mlp" (what the MLP reads: after the norm before it, gain and
shift included; the usual), "normalized" (the same before gain and shift: what TransformerLens calls
`hook_normalized`) or "residual" (the residual stream before that norm). `writes` is "residual" (d
is added to the residual stream; the usual) or "mlp" (d is written where the MLP's output matrix
writes, and passes the norm after it where a model has one). A cross-layer transcoder's feature,
which writes at several layers, has no one decoder and no place here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from circuits.base.choosing import Choice
from circuits.base.errors import FileFormatError, OptionError, StoreError
from circuits.base.writing import atomic_write

TENSORS = ("layer", "index", "encoder", "decoder")
LARGEST = 2**33
"""Bytes of the largest file that is read: the directions of a graph's features, no whole coder."""


class Feature(NamedTuple):
    """A feature by its layer and its number there."""

    layer: int
    number: int


class Reads(Choice):
    """What an encoder acts on: what the MLP reads, that before the norm's gain, or the stream."""

    MLP = "mlp"
    NORMALIZED = "normalized"
    RESIDUAL = "residual"


class Writes(Choice):
    """Where a decoder is added: to the residual stream, or where the MLP's matrix writes."""

    RESIDUAL = "residual"
    MLP = "mlp"


@dataclass(frozen=True, eq=False)
class Directions:
    """Encoders and decoders of some features; `reads` and `writes` say what they act on.

    OptionError for shapes that do not fit, numbers that are not finite, or a feature twice.
    """

    layer: Int[Tensor, " feature"]
    index: Int[Tensor, " feature"]
    encoder: Float[Tensor, "feature d_model"]
    decoder: Float[Tensor, "feature d_model"]
    reads: Reads | str = Reads.MLP
    writes: Writes | str = Writes.RESIDUAL
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", Reads.of(self.reads, "reads"))
        object.__setattr__(self, "writes", Writes.of(self.writes, "writes"))
        _check({name: getattr(self, name) for name in TENSORS})

    @property
    def d_model(self) -> int:
        """The width of the residual stream that they are of."""
        return self.encoder.shape[-1]

    @property
    def places(self) -> dict[Feature, int]:
        """In which row a feature stands."""
        pairs = zip(self.layer.tolist(), self.index.tolist(), strict=True)
        return {Feature(*pair): row for row, pair in enumerate(pairs)}

    def rows_of(self, features: Sequence[Feature]) -> list[int]:
        """The rows of some features; OptionError names the first that is not there."""
        places = self.places
        for each in features:
            if each not in places:
                raise OptionError(
                    f"there are no directions of feature {each.number} of layer {each.layer}, only "
                    f"of {len(places):,} others"
                )
        return [places[each] for each in features]

    def save(self, path: str | Path) -> None:
        """Write the file that `load` reads."""
        if Path(path).suffix != ".safetensors":
            raise StoreError(f"{path}: not written: directions go to a .safetensors file")
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in TENSORS}
        words = {"reads": str(self.reads), "writes": str(self.writes)}
        atomic_write(path, save(tensors, metadata=words))

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read a file of the layout above; FileFormatError says in one line what is wrong."""
        path = Path(path)
        if not path.is_file():
            raise FileFormatError(path, "no such file" if not path.exists() else "is no file")
        if path.stat().st_size > LARGEST:
            raise FileFormatError(path, "is too large: keep the features that you ask about")
        try:
            tensors, words = _read(path)
            _check(tensors)
            digest = sha256(path.read_bytes()).hexdigest()
        except SafetensorError as error:
            raise FileFormatError(path, f"is no safetensors file: {error}"[:200]) from None
        except OSError as error:
            raise FileFormatError(path, f"cannot be read: {error.strerror or error}") from None
        except OptionError as reason:
            raise FileFormatError(path, str(reason)) from None
        origin = {"directions": path.name, "directions_sha256": digest}
        try:
            return cls(
                layer=tensors["layer"],
                index=tensors["index"],
                encoder=tensors["encoder"],
                decoder=tensors["decoder"],
                reads=words.get("reads", Reads.MLP),
                writes=words.get("writes", Writes.RESIDUAL),
                provenance=origin,
            )
        except OptionError as reason:
            raise FileFormatError(path, str(reason)) from None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the words of a file, of the right types and numbers of axes."""
    with safe_open(path, "pt") as file:
        names, metadata = set(file.keys()), file.metadata() or {}
        if missing := [name for name in TENSORS if name not in names]:
            raise OptionError(f"has no tensor {missing[0]!r}: directions are {', '.join(TENSORS)}")
        found = {name: file.get_tensor(name) for name in TENSORS}
    for name, tensor in found.items():
        whole = name in ("layer", "index")
        if tensor.is_floating_point() == whole or tensor.dtype == torch.bool or tensor.is_complex():
            kind = "whole numbers" if whole else "floating-point numbers"
            raise OptionError(f"{name!r} holds {tensor.dtype}, not {kind}")
        if tensor.ndim != (1 if whole else 2):
            raise OptionError(f"{name!r} has {tensor.ndim} axes, not {1 if whole else 2}")
        found[name] = tensor.long() if whole else tensor
    words = {name: metadata[name] for name in ("reads", "writes") if name in metadata}
    return found, words


def _check(tensors: Mapping[str, Tensor]) -> None:
    """OptionError where tensors of the right types are no directions."""
    layer, index, encoder = (tensors[name] for name in TENSORS[:3])
    n, width = len(layer), encoder.shape[-1]
    shapes = [tuple(tensors[name].shape) for name in TENSORS]
    if shapes != [(n,), (n,), (n, width), (n, width)]:
        told = ", ".join(f"{a} {list(b)}" for a, b in zip(TENSORS, shapes, strict=True))
        raise OptionError(f"the shapes of the directions do not fit each other: {told}")
    if not n or not width:
        raise OptionError("there are no directions: not one feature, or no width")
    if int(torch.minimum(layer, index).min()) < 0:
        raise OptionError("layers and numbers of features are counted from 0")
    for name in ("encoder", "decoder"):
        if not bool(torch.isfinite(tensors[name]).all()):
            raise OptionError(f"{name!r} holds NaN or infinity")
    if len(set(zip(layer.tolist(), index.tolist(), strict=True))) != n:
        raise OptionError("a feature's directions are there twice")
