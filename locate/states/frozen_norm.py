"""A norm with its denominator frozen: a linear map from the residual stream to what is read there.

A norm divides by a scale that depends on the whole residual, so no part of it has a share of its
own in the logits, or in what a head or an MLP reads. With the scale kept at the value of one run
(Elhage et al. 2021) the norm is linear, parts add up, and what a part does to a logit is one inner
product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from circuits.model.model import Model
from circuits.model.norms import Norm


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A norm of a batch of runs, or positions, without its shift, which belongs to no part."""

    scale: Float[Tensor, " batch"]
    gain: Float[Tensor, " d_model"]
    centres: bool

    @classmethod
    def of_run(cls, model: Model, final: Float[Tensor, "batch d_model"]) -> FrozenNorm:
        """The final norm as it acts on these last residuals; computes in their data type."""
        return cls.of(model.last_norm, final)

    @classmethod
    def of(cls, norm: Norm, read: Float[Tensor, "batch d_model"]) -> FrozenNorm:
        """Any norm as it acts on what it reads; computes in that's data type."""
        return cls(norm.scale(read)[:, 0], norm.gain.to(read.dtype), norm.centres)

    def at(self, places: Sequence[int]) -> FrozenNorm:
        """The norm of some members of the batch, each as often as it is named."""
        return replace(self, scale=self.scale[list(places)])

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
