"""A norm of a model as its parts: what it divides by, its gain and its shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm where it `centres`, else RMSNorm; `gain` is what it multiplies with in the end."""

    gain: Float[Tensor, " width"]
    shift: Float[Tensor, " width"] | None
    eps: float
    centres: bool

    @classmethod
    def of(
        cls, component: Any, gain_from_one: bool, dtype: torch.dtype, device: torch.device
    ) -> Norm:
        """From the bridge's component; some models hold their gain minus one, some have none."""
        inner = component.original_component
        eps = getattr(inner, "eps", getattr(inner, "variance_epsilon", None))
        weight = component.weight
        if weight is None:
            weight = torch.ones(inner.normalized_shape, dtype=dtype, device=device)
        return cls(
            gain=1 + weight if gain_from_one else weight,
            shift=getattr(inner, "bias", None),
            eps=float(component.config.eps if eps is None else eps),
            centres=not component.uses_rms_norm,
        )

    def hats(self, value: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        """The value divided, without gain and shift; its last axis may be several times as long."""
        shape = value.shape[-1:]
        if self.centres:
            return F.layer_norm(value, shape, eps=self.eps)
        return F.rms_norm(value, shape, eps=self.eps)

    def frozen(self, value: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        """The whole norm without its shift; what it divides by has no derivative."""
        scale = self.scale(value).detach()
        if self.centres:
            value = value - value.mean(-1, keepdim=True)
        return value / scale * self.gain

    def scale(self, value: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest one"]:
        """What the norm divides the value by."""
        if self.centres:
            value = value - value.mean(-1, keepdim=True)
        return (value.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def __call__(self, value: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        """The whole norm."""
        result = self.hats(value) * self.gain
        return result if self.shift is None else result + self.shift
