"""Runs that begin in the middle: above a layer and from a position on, with what came before.

Where only one position's state is replaced, the layers below and the positions before are as they
were, and their keys and values are at hand.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.model.model import Model, Prefix


def run_above(
    model: Model,
    layer: int,
    residual: Float[Tensor, "row pos d_model"],
    before: Prefix | None = None,
    own: Int[Tensor, " row"] | None = None,
    at: slice = slice(None),
) -> Float[Tensor, "row some d_model"]:
    """The residual stream from after a layer to the end, before the final norm, at some positions.

    `before` has the keys and values of the positions before these, and `own` is as
    `Blocks.run_attention` takes it.
    """
    if layer == model.n_layers - 1:
        return residual[:, at]
    for above in range(layer + 1, model.n_layers):
        wanted = at if above == model.n_layers - 1 else slice(None)
        earlier = None if before is None else before.rows(above, len(residual))
        residual = model.run_layer(above, residual, earlier, wanted, own)
    return residual


def from_each(
    value: Float[Tensor, "row pos d_model"], first: Int[Tensor, " row"], width: int
) -> Float[Tensor, "row width d_model"]:
    """Each row from its own first position on; beyond its end its last value stands."""
    places = first[:, None] + torch.arange(width, device=value.device)
    return value.take_along_dim(places.clamp_max(value.shape[1] - 1)[..., None], 1)


def before_each(prefix: Prefix, own: Int[Tensor, " row"], above: int = -1) -> Prefix | None:
    """Keys and values of each row's first `own` positions, of the layers above one.

    They are moved to the right end: masks and windows go by distances, which are the true ones
    then. What is on the left of a row with fewer is padding. None where no row has any.
    """
    length = int(own.max())
    if length == 0:
        return None
    places = torch.arange(length, device=own.device) - (length - own[:, None])
    places = places.clamp_min(0)[:, None, :, None]
    pairs = (
        (keys.take_along_dim(places, 2), values.take_along_dim(places, 2))
        if at > above
        else (keys.new_empty(0), values.new_empty(0))  # a view would keep all of them
        for at, (keys, values) in enumerate(prefix.keys_values)
    )
    return Prefix(length, tuple(pairs))
