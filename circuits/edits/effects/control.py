"""A control beside an edit: a change of the same size at the same weights that says nothing.

What an edit rewires is only telling against what *any* change of its size there would rewire.
"""

from __future__ import annotations

from hashlib import sha256

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Control
from circuits.edits.edit import Change, EditRequest, LowRank, WeightDelta
from circuits.model.model import Model


def control_seed(seed: int, request: EditRequest, step: int = 0) -> int:
    """The seed of one edit's control: another draw for every edit and step of a sequence.

    It is the same in every run and for every method. One draw for all edits would leave the
    control's own variance out of any interval over edits.
    """
    text = f"{seed} {step} {request.text} {request.target}"
    return int(sha256(text.encode()).hexdigest()[:8], 16)


def control(
    delta: WeightDelta, model: Model, seed: int, kind: Control | str = Control.RANDOM
) -> WeightDelta:
    """A random change with the edit's singular values at every parameter.

    So norm and rank are the edit's own. Vectors (biases) keep their norm. `model` tells how its
    matrices lie.
    """
    kind, generator = Control.of(kind), torch.Generator().manual_seed(seed)
    changes = {
        name: _randomised(change, model.is_transposed(name), kind, generator)
        for name, change in delta.changes.items()
    }
    origin = {"method": "control", "control": str(kind), "seed": seed}
    return WeightDelta(changes, {**origin, "of": delta.fingerprint(), "edit": delta.provenance})


def _randomised(
    change: Change, transposed: bool, kind: Control, generator: torch.Generator
) -> Change:
    if isinstance(change, LowRank):
        left, right = change.left, change.right
    elif change.ndim == 2:
        # One side is the change itself, the other the identity: of the smaller one.
        rows, columns = change.shape
        eye = torch.eye(min(rows, columns), dtype=change.dtype, device=change.device)
        left, right = (change, eye) if columns <= rows else (eye, change)
    else:
        return _turned(change.reshape(-1, 1), generator).reshape(change.shape)
    keep_left, keep_right = {
        Control.RANDOM: (False, False),
        # Inputs are on the left where a matrix is input by output.
        Control.SAME_KEYS: (transposed, not transposed),
    }[kind]
    left = left if keep_left else _turned(left, generator)
    right = right if keep_right else _turned(right.T, generator).T
    return LowRank(left, right) if isinstance(change, LowRank) else left @ right


def _turned(
    value: Float[Tensor, "space rank"], generator: torch.Generator
) -> Float[Tensor, "space rank"]:
    """The same columns, with the same lengths and angles, somewhere else in space."""
    triangle = torch.linalg.qr(value.double(), mode="reduced").R
    noise = torch.randn(value.shape[0], triangle.shape[0], generator=generator, dtype=torch.double)
    basis = torch.linalg.qr(noise.to(value.device), mode="reduced").Q
    return (basis @ triangle).to(value.dtype)
