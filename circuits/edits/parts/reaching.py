"""What an MLP has to write so that the residual stream gains what an edit wants.

Without a norm after the MLP that is the gain itself. Past a root-mean-square norm (Gemma 2 and 3,
OLMo 2 and 3) the stream gets g x / rms(x) whatever the length of x: all that it can get lies on an
ellipsoid, of which the point nearest to the wanted one is taken. So a layer writes as much of a
gain as its norm lets through, and what is still lacking is left to the layers above.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.model import Model

HALVINGS = 100
"""Of the interval that holds the multiplier: more than double precision has bits."""


def raw_change(
    model: Model,
    layer: int,
    written: Float[Tensor, "request d_model"],
    gain: Float[Tensor, "request d_model"],
) -> Float[Tensor, "request d_model"]:
    """By how much the MLP's output matrix must write otherwise than `written`, in double precision.

    `gain` is what the residual stream shall get beyond what it gets of `written`. The length of
    what is written, which no norm lets through, stays.
    """
    if not model.architecture.normed_after:
        return gain.double()
    norm = model.norm(layer, "ln2_post")
    assert norm is not None, "the architecture has it"
    before, rate = written.double(), norm.gain.double()
    scale = norm.scale(before)
    hats = before / scale
    found = nearest(rate, rate * hats + gain.double(), hats.norm(dim=-1, keepdim=True))
    return scale * found - before


def nearest(
    rate: Float[Tensor, " d_model"],
    wanted: Float[Tensor, "request d_model"],
    length: Float[Tensor, "request one"],
) -> Float[Tensor, "request d_model"]:
    """The vector v of that length for which rate * v is nearest to what is wanted.

    v = rate * wanted / (rate^2 + m), with the multiplier m > -min rate^2 that gives v its length,
    which falls as m grows.
    """
    squared, pulled = rate.square(), rate * wanted
    low = -squared.min().expand_as(length)
    high = pulled.norm(dim=-1, keepdim=True) / length
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_long = (pulled / (squared + middle)).norm(dim=-1, keepdim=True) > length
        low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
    found = pulled / (squared + high)
    return found * length / found.norm(dim=-1, keepdim=True)
