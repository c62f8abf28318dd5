"""Backward passes by other rules than the chain rule's; what is computed forward stays the same.

Attribution multiplies what a source writes with how the metric depends on it. The plain gradient
says what an infinitesimal change would do, and a change of a whole prompt is not one: it saturates
a softmax, moves a norm's denominator, crosses a bend of an activation. The methods that put rules
in the gradient's place (`relp`, `gim`) share the pieces below, each of which replaces the local
derivative of one operation:

    norm          y = gain (x - mean x) / sigma: sigma is a constant
    activation    f(x) = x (f(x) / x):           f(x) / x is a constant
    gate          f(g) u:                        each of the two factors gets half
    pattern       A = softmax(s):                A is a constant, or dA/ds is that of s / T
    q, k and v    what reaches them is multiplied by a number each

A piece is a hook that returns the same value with another derivative: value + (linear - linear),
where the second `linear` is detached, so the sum is the value to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import UnsupportedArchitectureError
from circuits.model import taps
from circuits.model.model import Hook, Model
from circuits.model.norms import Norm

_NEAR_ZERO = 1e-4
"""Inputs of an activation closer to 0 than this take f(x)/x from here, where it is f'(0)."""


@dataclass(frozen=True)
class BackwardRules:
    """Which derivatives are replaced; by default none.

    `scales` are the numbers of queries, keys and values; `temperature` is T above.
    """

    frozen_norms: bool = False
    linear_activations: bool = False
    frozen_patterns: bool = False
    temperature: float = 1.0
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def cuts(self) -> bool:
        """Whether no gradient reaches queries and keys."""
        return self.frozen_patterns

    def hooks(self, model: Model) -> list[Hook]:
        """Hooks for a forward pass whose backward pass follows the rules.

        They come after those that read a tensor's gradient, so that it is that of the rules.
        UnsupportedArchitectureError where a piece cannot be reached.
        """
        if self.frozen_patterns or self.temperature != 1.0:
            check_open_attention(model)
        hooks: list[Hook] = []
        for layer in range(model.n_layers):
            if self.frozen_norms:
                for name in taps.NORMS:
                    if (norm := model.norm(layer, name)) is not None:
                        hooks += _frozen_norm(taps.norm_ends(layer, name), norm)
            if self.linear_activations:
                hooks += _linear_activation(model, layer)
            if self.frozen_patterns:
                hooks.append((taps.pattern(layer), lambda value, hook: value.detach()))
            elif self.temperature != 1.0:
                hooks += _softened(layer, self.temperature)
            for slot, scale in zip(taps.SLOTS, self.scales, strict=True):
                if scale != 1.0:
                    hooks.append((taps.projection(layer, slot), _scaled(scale)))
        if self.frozen_norms:
            hooks += _frozen_norm(taps.norm_ends(None, taps.FINAL_NORM), model.last_norm)
        return hooks


PLAIN = BackwardRules()


def check_open_attention(model: Model) -> None:
    """UnsupportedArchitectureError where a pattern cannot be replaced within a run."""
    if model.architecture.closed_attention:
        raise UnsupportedArchitectureError(
            f"{model.name!r} computes attention where no hook can replace it; take eap-ig, or "
            "atp-star with `attention` false"
        )


def with_derivative_of(value: Tensor, linear: Tensor) -> Tensor:
    """The value, bit for bit, with the derivative of `linear`."""
    return value.detach() + (linear - linear.detach()).to(value.dtype)


def _scaled(scale: float) -> Callable[..., Tensor]:
    return lambda value, hook: with_derivative_of(value, scale * value)


def _frozen_norm(ends: tuple[str, str], norm: Norm) -> list[Hook]:
    read: list[Tensor] = []

    def before(value: Tensor, hook: object) -> None:
        read[:] = [value]

    def after(value: Tensor, hook: object) -> Tensor:
        return with_derivative_of(value, norm.frozen(read.pop()))

    return [(ends[0], before), (ends[1], after)]


def _softened(layer: int, temperature: float) -> list[Hook]:
    read: list[Tensor] = []

    def before(scores: Tensor, hook: object) -> None:
        read[:] = [scores]

    def after(pattern: Tensor, hook: object) -> Tensor:
        # T softmax(s / T) has the softmax's Jacobian at s / T, without the chain rule's 1 / T.
        # Some models hide later positions after their scores are read: where nothing is seen.
        scores = read.pop().masked_fill(pattern.detach() == 0, -torch.inf)
        soft = temperature * (scores / temperature).softmax(-1)
        return with_derivative_of(pattern, soft)

    return [(taps.attention_scores(layer), before), (taps.pattern(layer), after)]


def _linear_activation(model: Model, layer: int) -> list[Hook]:
    if model.architecture.mlp_output is None:
        raise UnsupportedArchitectureError(
            f"{model.name!r} mixes experts, whose activations cannot be reached one by one; take a "
            "locator without a rule for activations, such as eap-ig or gim"
        )
    gated = model.is_gated
    read: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda value, hook: read.__setitem__(name, value)

    def after(value: Tensor, hook: object) -> Tensor:
        into = read.pop("gate" if gated else "up")
        factor = _share(model, into.detach())
        if not gated:
            return with_derivative_of(value, (into * factor).view_as(value))
        up, active = read.pop("up"), into.detach() * factor
        half = up.detach() * (into * factor) + active * up
        return with_derivative_of(value, (half / 2).view_as(value))

    points: list[Hook] = [(taps.mlp_up(layer), keep("up"))]
    if gated:
        points.append((taps.mlp_gate(layer), keep("gate")))
    return [*points, (taps.mlp_keys(layer), after)]


def _share(model: Model, value: Float[Tensor, "*rest d_mlp"]) -> Float[Tensor, "*rest d_mlp"]:
    """f(x) / x, which is f'(0) at 0."""
    away = torch.where(value.abs() < _NEAR_ZERO, torch.full_like(value, _NEAR_ZERO), value)
    return model.activation(away) / away
