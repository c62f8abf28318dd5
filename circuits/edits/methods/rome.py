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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.base.options import Options, option
from circuits.edits.edit import EditRequest, LowRank, WeightDelta
from circuits.edits.parts.contexts import ContextSettings, place, sample_contexts
from circuits.edits.parts.keys import at_subject, key_point, value_point
from circuits.edits.parts.moments import Moments
from circuits.edits.parts.value import Progress, ValueSettings, optimise_values
from circuits.model.model import Model


@dataclass(frozen=True)
class RomeSettings(Options):
    """Hyperparameters of ROME. `consistent_keys` is R-ROME; False is the original code's mix."""

    layers: tuple[int, ...]
    value: ValueSettings = option(ValueSettings())
    contexts: ContextSettings = option(ContextSettings())
    consistent_keys: bool = True
    shrinkage: float = option(1e-3, low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise OptionError(f"ROME edits one layer, not {len(self.layers)}; give --layers one")


@dataclass(frozen=True, eq=False)
class KeyValue:
    """What ROME writes: `value` for `key`, which is at `current` now, along C^-1 `direction`."""

    key: Float[Tensor, " d_mlp"]
    direction: Float[Tensor, " d_mlp"]
    current: Float[Tensor, " d_model"]
    value: Float[Tensor, " d_model"]


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
    bare = keys[0], outputs[0]
    mean = keys.mean(0), outputs.mean(0)
    key, current = mean if settings.consistent_keys else bare
    target = KeyValue(key, mean[0], current, outputs[0] + optimised.delta)
    change = rank_one(target, moments, layer, settings.shrinkage)
    name = model.mlp_output_name(layer)
    if model.is_transposed(name):
        change = LowRank(change.right.T, change.left.T)
    details = {
        "losses": optimised.losses,
        "target_probability_in_contexts": optimised.probabilities,
        "value_norm": float(optimised.delta.norm()),
        "value_scale": float(outputs[0].norm()),
        "contexts": contexts,
    }
    return WeightDelta({name: change}, {"settings": asdict(settings)}), details


def rank_one(target: KeyValue, moments: Moments, layer: int, shrinkage: float) -> LowRank:
    """The change of W, output by input, that maps the key to the value."""
    along = moments.solve(layer, target.direction[None], shrinkage)[0]
    share = float(target.key.double() @ along)
    if not abs(share) > 0:
        raise NumericalError("the edit's key is orthogonal to its own direction, or zero")
    missing = (target.value.double() - target.current.double()) / share
    # Both factors of like norm: single precision then loses least of their product.
    balance = float((missing.norm() / along.norm()).sqrt()) or 1.0
    return LowRank((missing / balance).float()[:, None], (along * balance).float()[None])
