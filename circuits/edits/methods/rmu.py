"""RMU: on what is to be forgotten, a layer's activations are led to a random direction.

Li et al. 2024, "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning",
arXiv:2403.03218, section 4. With M the layer's output (the residual stream after its block), u a
random unit vector, d the model's width, and means over the tokens t of a text:

- forget:  mean_t ||M(t) - c u||^2 / d
- retain:  mean_t ||M(t) - M_before(t)||^2 / d

As in the authors' code u has entries of one sign (uniform between 0 and 1, then of unit length),
squares are means over d, and the MLP's output matrices of the layer and the two before it learn;
unlike there, padding does not count. Their run on Zephyr-7B-beta: loss on the output of layer 7,
weights of layers 5 to 7, c = 6.5, alpha = 1200, learning rate 5e-5, 150 batches of 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.base.options import Options, option
from circuits.edits.parts.training import Passage, Trainee, pad
from circuits.model.model import Model

DEPTH = 7 / 32
"""The published layer, 7 of Zephyr-7B-beta's 32, as a fraction of the depth."""
BEFORE = 2
"""Layers before the one that is read whose weights learn too."""


@dataclass(frozen=True)
class RmuSettings(Options):
    """Which activations go where; the numbers are those published for Zephyr-7B-beta.

    `layer` is the one that is read, None the published 7 of 32 by depth. `steering` is c, in the
    units of the activations; `alpha` weighs the retain term. `answers_only` takes the positions
    that predict the answer instead of all of a text, for sets whose questions begin alike.
    """

    layer: int | None = option(None, low=0)
    steering: float = option(6.5, above=0)
    alpha: float = option(1200.0, low=0)
    answers_only: bool = False


def layer_of(model: Model, settings: RmuSettings) -> int:
    """The layer that is read. OptionError for one that has no activations to lead.

    The last layer's are none: Hugging Face returns them after the final norm.
    """
    layer = round(DEPTH * model.n_layers) if settings.layer is None else settings.layer
    if layer >= model.n_layers - 1:
        raise OptionError(
            f"RMU reads a layer before the last: {model.name!r} has 0 to {model.n_layers - 2}, "
            f"not {layer}"
        )
    return layer


def layers_up_to(layer: int) -> tuple[int, ...]:
    """The layers whose weights learn unless others are named."""
    return tuple(range(max(0, layer - BEFORE), layer + 1))


def check_before(layers: Sequence[int], layer: int) -> None:
    """OptionError where a layer comes after the one that is read, which it cannot reach."""
    if layers[-1] > layer:
        raise OptionError(
            f"RMU reads layer {layer}, which weights of layer {layers[-1]} cannot reach; name "
            "layers up to it, or set rmu.layer"
        )


def direction(width: int, seed: int) -> Float[Tensor, " d"]:
    """The random unit vector u."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


@dataclass(frozen=True)
class Steering:
    """The two terms of one run, on the trainee's activations after `layer`."""

    trainee: Trainee
    layer: int
    target: Float[Tensor, " d"]
    answers_only: bool = False

    def away(self, passages: Sequence[Passage]) -> Float[Tensor, " batch"]:
        """The forget term, one a text."""
        states, mask = self._states(passages, changed=True)
        return _mean_square(states - self.target, mask)

    def drift(self, passages: Sequence[Passage]) -> Float[Tensor, " batch"]:
        """The retain term, one a text; zero where nothing has changed."""
        states, mask = self._states(passages, changed=True)
        with torch.no_grad():
            before, _ = self._states(passages, changed=False)
        return _mean_square(states - before, mask)

    def _states(
        self, passages: Sequence[Passage], changed: bool
    ) -> tuple[Float[Tensor, "batch pos d"], Bool[Tensor, "batch pos"]]:
        tokens, predicts = pad(passages, self.trainee.device)
        states = self.trainee.states(tokens, self.layer, changed).float()
        if self.answers_only:
            return states, predicts
        lengths = torch.tensor(list(map(len, passages)), device=tokens.device)
        return states, torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]


def _mean_square(
    off: Float[Tensor, "batch pos d"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    squares = off.square().mean(-1).masked_fill(~mask, 0.0)
    return squares.sum(1) / mask.sum(1)
