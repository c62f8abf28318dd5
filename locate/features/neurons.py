"""An MLP's own neurons as features: directions without any transcoder at hand.

A neuron's encoder is its row of the MLP's input matrix, its decoder its row of the output matrix,
its activation what the output matrix reads of it; it reads behind the norm before the MLP and
writes before a norm after it. In a gated MLP, whose neuron is f(gate) times up, the encoder is the
row of the *gate's* matrix: an edge into a neuron is then one into what opens it, and what is added
to the other factor is in no edge. The activation of a source is the whole product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.model.model import Model
from locate.features.directions import Directions, Feature, Reads, Writes

HINT = "; give `directions`"


def neuron_encoders(model: Model, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """Every neuron's row of the input matrix, of a gated MLP the gate's."""
    model.check_neurons(HINT)
    mlp = model.bridge.blocks[layer].mlp
    name = "gate" if model.is_gated else "in"
    with model.paging.reading(getattr(mlp, name)) as part:
        weight: Tensor = part.weight
    return weight.T if model.architecture.transposed else weight


def neuron_directions(model: Model, features: Sequence[Feature]) -> Directions:
    """The directions of some neurons; OptionError for one that the model does not have."""
    model.check_neurons(HINT)
    chosen = sorted(set(features))
    encoders, decoders = [], []
    for layer in sorted({each.layer for each in chosen}):
        if layer >= model.n_layers:
            raise OptionError(f"{model.name!r} has layers 0 to {model.n_layers - 1}, not {layer}")
        rows = [each.number for each in chosen if each.layer == layer]
        into, out = neuron_encoders(model, layer), model.mlp_output_matrix(layer).T
        if max(rows) >= len(out):
            raise OptionError(
                f"layer {layer} of {model.name!r} has neurons 0 to {len(out) - 1}, not {max(rows)}"
            )
        encoders.append(into[rows])
        decoders.append(out[rows])
    return Directions(
        torch.tensor([each.layer for each in chosen]),
        torch.tensor([each.number for each in chosen]),
        torch.cat(encoders),
        torch.cat(decoders),
        Reads.MLP,
        Writes.MLP,
        {"features": "neurons", **({"encoder": "gate"} if model.is_gated else {})},
    )
