"""ROME: one rank-one change of one MLP's output matrix (Meng et al. 2022).

1. Key k*: mean over contexts of the MLP's key at the subject's last token.
2. Value v*: the MLP's output there on the bare prompt, plus the delta of
   `circuits.edits.parts.value`.
3. W' = W + (v* - W k*) (C^-1 k*)^T / (k*^T C^-1 k*), so that W' k* = v* and, of all such, the keys
   that C knows are moved least (equation 2).

The original code takes k and W k of step 3 from the bare prompt, but C^-1 k* from the mean key. The
change is then not the least one, and large where the two keys differ; this is what made single
edits break the model (R-ROME, Gupta et al. 2024). Here one key stands everywhere; the original is
kept as `rome-original`, with the KL term of its code (`circuits.edits.parts.value`).

The bare prompt is one of 21 in the mean. Where it begins with the subject, many tokenizers write
the subject there without the space that it has inside a text; if the layers below have not made the
two alike, the change hardly reaches the bare key (`reach` in the details: the share of the gain).
`keys = both` asks that the bare prompt's key and the mean of the others both gain the delta,
W' k_i = W k_i + delta. With S_ij = k_i^T C^-1 k_j the least such change is the outer product of
delta and sum_ij (S^-1)_ij C^-1 k_j, of rank one like the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Choice
from circuits.base.errors import NumericalError, OptionError
from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, LowRank, WeightDelta
from circuits.edits.parts.contexts import ContextSettings, place, sample_contexts
from circuits.edits.parts.keys import at_subject, key_point, value_point
from circuits.edits.parts.moments import Moments
from circuits.edits.parts.value import ValueSettings, optimise_values
from circuits.model.model import Model

ALIKE = 1e-9
"""Two keys are one where the smaller singular value of S is below this share of the larger."""


class Keys(Choice):
    """MEAN of all contexts (R-ROME); BOTH, the bare prompt's and the others'; the ORIGINAL mix."""

    MEAN = "mean"
    BOTH = "both"
    ORIGINAL = "original"


@dataclass(frozen=True)
class RomeSettings(Options):
    """Hyperparameters of ROME; `keys` says for which key or keys the value is written."""

    layers: tuple[int, ...]
    value: ValueSettings = option(ValueSettings())
    contexts: ContextSettings = option(ContextSettings())
    keys: Keys = Keys.MEAN
    shrinkage: float = option(1e-3, low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise OptionError(f"ROME edits one layer, not {len(self.layers)}; give `layers` one")


@dataclass(frozen=True, eq=False)
class Written:
    """What ROME writes: every key's output gains `gain`, along C^-1 of the directions.

    One key and one direction, or two of each; directions differ from keys in the original's mix.
    """

    keys: Float[Tensor, "key d_mlp"]
    directions: Float[Tensor, "key d_mlp"]
    gain: Float[Tensor, " d_model"]


def rome(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: RomeSettings,
    moments: Moments,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """The change for the one request."""
    (request,), (layer,) = requests, layers
    contexts = sample_contexts(model, settings.contexts, generator)
    prompts = [place(model, request, context) for context in contexts]
    found = at_subject(model, prompts, [key_point(layer), value_point(layer)], layer)
    keys, outputs = found[key_point(layer)], found[value_point(layer)]
    (optimised,) = optimise_values(
        model, requests, layer, contexts, outputs[:1], settings.value, progress
    )
    target = _written(settings.keys, keys, outputs, optimised.delta)
    if not bool(target.gain.any()):
        raise NumericalError(
            "the value did not move from what the layer writes already: more value steps, or a "
            "lower `stop_below`, may move it"
        )
    change = rank_one(target, moments, layer, settings.shrinkage)
    reached = float((keys[0] @ change.right[0]) * (change.left[:, 0] @ target.gain))
    reach = reached / float(target.gain @ target.gain)
    name = model.mlp_output_name(layer)
    if model.is_transposed(name):
        change = LowRank(change.right.T, change.left.T)
    details = {
        "losses": optimised.losses,
        "target_probability_in_contexts": optimised.probabilities,
        "value_norm": float(optimised.delta.norm()),
        "value_scale": float(outputs[0].norm()),
        "contexts": contexts,
        "reach": reach,
    }
    return WeightDelta({name: change}, {"settings": asdict(settings)}), details


def _written(
    kind: Keys,
    keys: Float[Tensor, "context d_mlp"],
    outputs: Float[Tensor, "context d_model"],
    delta: Float[Tensor, " d_model"],
) -> Written:
    """Keys and gain, from those in every context, of which the first is the bare prompt."""
    mean, others = keys.mean(0, keepdim=True), keys[1:].mean(0, keepdim=True)
    both = torch.cat([keys[:1], others]) if len(keys) > 1 else keys
    return {
        Keys.MEAN: lambda: Written(mean, mean, outputs[0] + delta - outputs.mean(0)),
        Keys.BOTH: lambda: Written(both, both, delta),
        Keys.ORIGINAL: lambda: Written(keys[:1], mean, delta),
    }[kind]()


def rank_one(target: Written, moments: Moments, layer: int, shrinkage: float) -> LowRank:
    """The least change of W, output by input, by which each key's output gains the gain."""
    along = moments.solve(layer, target.directions, shrinkage).double()
    shares = along @ target.keys.double().T
    if not bool((shares.diagonal().abs() > 0).all()):
        raise NumericalError("the edit's key is orthogonal to its own direction, or zero")
    # Keys that are alike are one: the pseudo-inverse shares the gain among them.
    weights = torch.linalg.pinv(shares, rtol=ALIKE).sum(0)
    direction, gain = weights @ along, target.gain.double()
    # Both factors of like norm: single precision then loses least of their product.
    balance = float((gain.norm() / direction.norm()).sqrt()) or 1.0
    return LowRank((gain / balance).float()[:, None], (direction * balance).float()[None])
