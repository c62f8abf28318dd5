"""The final norm with its denominator frozen: a linear map from the residual stream to the logits.

A norm divides by a scale that depends on the whole residual, so no part of it has a share in the
logits of its own. With the scale kept at the value of one run (Elhage et al. 2021) the norm is
linear, parts add up, and what a part does to a logit is one inner product.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuits.model.model import Model


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """The final norm of a batch of runs without its shift, which belongs to no part."""

    scale: Float[Tensor, " batch"]
    gain: Float[Tensor, " d_model"]
    centres: bool

    @classmethod
    def of_run(cls, model: Model, final: Float[Tensor, "batch d_model"]) -> FrozenNorm:
        """The norm as it acts on these last residuals; computes in their data type."""
        centred = final if model.uses_rms_norm else _centred(final)
        scale = (centred.square().mean(-1) + model.norm_eps).sqrt()
        return cls(scale, model.final_norm()[0].to(final.dtype), not model.uses_rms_norm)

    def apply(
        self, part: Float[Tensor, "batch *rest d_model"]
    ) -> Float[Tensor, "batch *rest d_model"]:
        """What the output matrix reads of a part of each run's residual."""
        part = _centred(part) if self.centres else part
        return part / self.scale.view(-1, *[1] * (part.ndim - 1)) * self.gain

    def pull_back(
        self, direction: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """The direction whose product with a part is that of `direction` with the applied part."""
        direction = direction * self.gain
        direction = _centred(direction) if self.centres else direction
        return direction / self.scale[:, None]


def _centred(value: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
    return value - value.mean(-1, keepdim=True)
