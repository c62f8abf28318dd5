"""AlphaEdit: MEMIT's change, confined to directions that other keys do not use (Fang et al. 2025).

With P the projection onto the eigenvectors of C whose eigenvalues are below a threshold, and K_p
the keys of facts edited earlier, the change of a layer is the D in W' = W + R^T D of

    (P (K K^T + K_p K_p^T) + ridge I) D^T = P K

as in the released code, so D = D P: whatever lies in the preserved directions, the complement of P,
is not moved at all. That code keeps P and K_p in files and globals that outlive a model; here both
are arguments. Its threshold is absolute, which means something else at every scale of activations,
so a threshold in units of C's mean eigenvalue may be given instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import NumericalError
from circuits.base.options import Options, option
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.memit import Keys, check_distinct, mean_keys, spread
from circuits.edits.parts.contexts import MEMIT_CONTEXTS, ContextSettings, sample_contexts
from circuits.edits.parts.moments import Moments
from circuits.edits.parts.value import ValueSettings
from circuits.model.model import Model


@dataclass(frozen=True)
class AlphaEditSettings(Options):
    """Hyperparameters of AlphaEdit. The threshold is on C's eigenvalues: absolute as published,
    or in units of their mean with `relative_threshold`.
    """

    layers: tuple[int, ...]
    value: ValueSettings = option(ValueSettings(clamp=0.75))
    contexts: ContextSettings = MEMIT_CONTEXTS
    threshold: float = option(0.02, above=0)
    relative_threshold: bool = False
    ridge: float = option(10.0, above=0)


def alphaedit(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    settings: AlphaEditSettings,
    moments: Moments,
    generator: torch.Generator,
    progress: Progress | None = None,
    earlier: Sequence[EditRequest] = (),
) -> tuple[WeightDelta, dict[str, Any]]:
    """The change of all layers for all requests; keys of `earlier` requests are protected."""
    check_distinct(requests)
    contexts = sample_contexts(model, settings.contexts, generator)
    free: dict[int, int] = {}

    def directions(layer: int, keys: Keys) -> Keys:
        basis = null_space(moments, layer, settings)
        free[layer] = basis.shape[1]
        kept = mean_keys(model, earlier, contexts, layer) if earlier else keys[:0]
        return projected_directions(basis.to(keys.device), keys, kept, settings.ridge)

    changes, details = spread(
        model, requests, layers, contexts, settings.value, directions, progress
    )
    details |= {"null_space_dimensions": free}
    return WeightDelta(changes, {"settings": asdict(settings)}), details


def null_space(
    moments: Moments, layer: int, settings: AlphaEditSettings
) -> Float[Tensor, "d_mlp free"]:
    """Eigenvectors of C that the text hardly uses; NumericalError where there are none."""
    values, vectors = moments.eigen(layer)
    unit = float(values.mean()) if settings.relative_threshold else 1.0
    basis = vectors[:, values < settings.threshold * unit]
    if basis.shape[1] == 0:
        raise NumericalError(
            f"layer {layer} has no direction whose second moment is below the threshold "
            f"{settings.threshold * unit:.3g} (the smallest is {float(values[0]):.3g}), so "
            "AlphaEdit has nowhere to write; raise the threshold"
        )
    return basis


def projected_directions(
    basis: Float[Tensor, "d_mlp free"],
    keys: Keys,
    kept: Float[Tensor, "earlier d_mlp"],
    ridge: float,
) -> Float[Tensor, "request d_mlp"]:
    """D of the equation above, one row a request, in double precision.

    In coordinates of the null space, a = U^T K: D = a^T (A A^T + ridge I)^-1 U^T, A over requests
    and earlier ones.
    """
    inside = keys.double() @ basis
    both = torch.cat([inside, kept.double() @ basis])
    system = both.T @ both
    system = system + ridge * torch.eye(system.shape[0], dtype=system.dtype, device=system.device)
    return torch.linalg.solve(system, inside.T).T @ basis.T
