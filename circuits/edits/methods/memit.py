"""MEMIT: many facts in one change of several layers (Meng et al. 2023).

1. For each request z: the residual stream at the subject's last token after the last layer, plus
   the delta of `circuits.edits.parts.value`.
2. For each layer from the lowest, on the model as changed so far: K are the requests' keys, R what
   the residual still lacks of z, divided by the number of layers left; then
   W' = W + R K^T (lambda C + K K^T)^-1.

The inverse is taken in double precision through (lambda C + K K^T)^-1 K = C^-1 K (lambda I +
K^T C^-1 K)^-1, whose system is of the size of the requests and which holds for lambda -> 0 too.
There, in one layer, it is EMMET (Gupta, Sajnani and Anumanchipalli 2024, "A Unified Framework for
Model Editing", arXiv:2403.14236): W' = W + R (K^T C^-1 K)^-1 K^T C^-1, the least change that
reaches every value exactly, which is ROME for many facts. The method `emmet` is that; the released
code adds 0.1 to the diagonal of K^T C^-1 K where there is more than one key.

Where a norm follows each MLP, R holds by how much the MLP must write otherwise for the residual
stream to come as near as the norm allows to the layer's share (`circuits.edits.parts.reaching`).
`reach` in the details says for each request how much of its delta the stream got in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import Change, EditRequest, LowRank, WeightDelta
from circuits.edits.parts.contexts import MEMIT_CONTEXTS, ContextSettings, place, sample_contexts
from circuits.edits.parts.keys import at_subject, key_point, residual_point, value_point
from circuits.edits.parts.moments import IDENTITY, Moments
from circuits.edits.parts.reaching import raw_change
from circuits.edits.parts.value import ValueSettings, optimise_values
from circuits.model.model import Model

Keys = Float[Tensor, "request d_mlp"]
Directions = Callable[[int, Keys], Keys]
"""From a layer and the requests' keys to the rows D of the change R^T D."""


@dataclass(frozen=True)
class MemitSettings(Options):
    """Hyperparameters of MEMIT.

    `covariance_weight` is lambda: how many tokens of the text one request is weighed against. With
    C = I it also multiplies the mean square of the requests' keys, as C would carry that scale.
    """

    layers: tuple[int, ...]
    value: ValueSettings = option(ValueSettings(clamp=0.75))
    contexts: ContextSettings = MEMIT_CONTEXTS
    covariance_weight: float = option(20000.0, low=0)
    shrinkage: float = option(1e-3, low=0, high=1)


def memit(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: MemitSettings,
    moments: Moments,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """The change of all layers for all requests together."""
    check_distinct(requests)
    return write_values(model, requests, layers, settings, moments, generator, progress)


def write_values(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: MemitSettings,
    moments: Moments,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """As `memit`, also of several targets for one prompt, which no weights could all answer."""
    contexts = sample_contexts(model, settings.contexts, generator)

    def directions(layer: int, keys: Keys) -> Keys:
        return weighted_directions(
            moments, layer, keys, settings.covariance_weight, settings.shrinkage
        )

    changes, details = spread(
        model, requests, layers, contexts, settings.value, directions, progress
    )
    return WeightDelta(changes, {"settings": asdict(settings)}), details


def weighted_directions(
    moments: Moments, layer: int, keys: Keys, weight: float, shrinkage: float
) -> Float[Tensor, "request d_mlp"]:
    """((lambda C + K K^T)^-1 K)^T, one row a request, in double precision."""
    wide = keys.double()
    if moments.source["kind"] == IDENTITY:
        weight = weight * float(wide.square().mean())
    solved = moments.solve(layer, wide, shrinkage)
    system = solved @ wide.T
    system = system + weight * torch.eye(len(keys), dtype=system.dtype, device=system.device)
    found, failed = torch.linalg.solve_ex(system, solved)
    if int(failed):
        raise NumericalError(
            f"the keys of the {len(keys)} requests in layer {layer} are not independent; use a "
            "larger covariance weight or fewer requests of one subject"
        )
    return found


def spread(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    contexts: Sequence[str],
    settings: ValueSettings,
    directions: Directions,
    progress: Progress | None = None,
) -> tuple[dict[str, Change], dict[str, Any]]:
    """The change of each weight, and what is recorded of values and reach.

    Optimises the values, then reaches them layer by layer; the model is as before afterwards.
    """
    last = layers[-1]
    bare = [place(model, request) for request in requests]
    point = residual_point(last)
    start = at_subject(model, bare, [point], last)[point]
    values = optimise_values(
        model, requests, last, contexts, start, settings, progress, past_norm=True
    )
    delta = torch.stack([value.delta for value in values])
    changes: dict[str, Change] = {}
    with ExitStack() as applied:
        for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
            found = at_subject(model, bare, [point, value_point(layer)], last)
            keys = mean_keys(model, requests, contexts, layer)
            share = (start + delta - found[point]).double() / left
            residual = raw_change(model, layer, found[value_point(layer)], share)
            name = model.mlp_output_name(layer)
            change = _change(residual, directions(layer, keys), model.is_transposed(name))
            changes[name] = change
            applied.enter_context(WeightDelta({name: change}).applied(model))
        gained = at_subject(model, bare, [point], last)[point] - start
    wanted, got = delta.square().sum(-1).tolist(), (gained * delta).sum(-1).tolist()
    reach = [part / whole if whole else None for part, whole in zip(got, wanted, strict=True)]
    return changes, {
        "losses": [value.losses for value in values],
        "target_probability_in_contexts": [value.probabilities for value in values],
        "value_norm": [float(value.delta.norm()) for value in values],
        "contexts": tuple(contexts),
        "reach": reach,
    }


def mean_keys(
    model: Model, requests: Sequence[EditRequest], contexts: Sequence[str], layer: int
) -> Keys:
    """One key a request: half the bare prompt's, half the mean of the other contexts'."""
    prompts = [place(model, request, context) for request in requests for context in contexts]
    found = at_subject(model, prompts, [key_point(layer)], layer)[key_point(layer)]
    keys = found.unflatten(0, (len(requests), len(contexts)))
    if len(contexts) == 1:
        return keys[:, 0]
    return (keys[:, 0] + keys[:, 1:].mean(1)) / 2


def check_distinct(requests: Sequence[EditRequest]) -> None:
    """OptionError for two requests of one prompt and subject: no weights could answer both."""
    seen: dict[tuple[str, str], str] = {}
    for request in requests:
        key = (request.prompt, request.subject)
        if key in seen:
            raise OptionError(
                f"{request.text!r} is to be edited twice, to {seen[key]!r} and {request.target!r}"
            )
        seen[key] = request.target


def _change(
    residual: Float[Tensor, "request d_model"],
    rows: Float[Tensor, "request d_mlp"],
    transposed: bool,
) -> Change:
    """R^T D as the model holds the matrix: low rank where that is smaller."""
    left, right = residual.T, rows
    if transposed:
        left, right = right.T, left.T
    if 2 * len(residual) > min(left.shape[0], right.shape[1]):
        return (left @ right).float()
    balance = torch.sqrt(left.norm(dim=0) / right.norm(dim=1).clamp_min(1e-300)).clamp_min(1e-30)
    return LowRank((left / balance).float(), (right * balance[:, None]).float())
