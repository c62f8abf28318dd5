"""Keys and values at the subject's last token: what a layer's MLP reads and writes there.

The key k is the input of the MLP's output matrix W, the value W k (+ bias) its output; both are
linear in each other, so the value of a mean key is the mean of the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.edits.parts.contexts import PlacedPrompt
from circuits.facts.batches import padded
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Model

MAX_ROWS = 64


def key_point(layer: int) -> str:
    """Hook at the key: the input of the MLP's output matrix."""
    return taps.mlp_keys(layer)


def value_point(layer: int) -> str:
    """Hook at the value: the MLP's output."""
    return taps.mlp_raw(layer)


def residual_point(layer: int) -> str:
    """Hook at the residual stream after a layer."""
    return taps.resid_post(layer)


@torch.no_grad()
def capture(
    model: Model, tokens: Int[Tensor, "row pos"], points: Iterable[str], last_layer: int
) -> dict[str, Float[Tensor, "row pos d"]]:
    """Activations at the named points; the run ends after `last_layer`."""
    found, keep = taps.keeping(points)

    def stop(value: Any, hook: Any) -> None:
        raise _Enough

    # Hooks of one point fire in this order, so what is kept is kept before the run ends.
    with suppress(_Enough):
        model.last_logits(tokens, [*keep, (residual_point(last_layer), stop)])
    return found


@alone
def at_subject(
    model: Model,
    prompts: Sequence[PlacedPrompt],
    points: Sequence[str],
    last_layer: int,
    max_rows: int = MAX_ROWS,
) -> Mapping[str, Float[Tensor, "prompt d"]]:
    """Activations at each prompt's subject's last token, in fp32."""
    parts: dict[str, list[Tensor]] = {point: [] for point in points}
    for start in range(0, len(prompts), max_rows):
        chunk = prompts[start : start + max_rows]
        # What follows the subject does not reach it, so it is left out.
        begun = [prompt.ids[: prompt.subject_last + 1] for prompt in chunk]
        tokens = padded(begun, model.device)[0]
        places = torch.tensor([prompt.subject_last for prompt in chunk], device=model.device)
        rows = torch.arange(len(chunk), device=model.device)
        for point, value in capture(model, tokens, points, last_layer).items():
            parts[point].append(value[rows, places].float())
    return {point: torch.cat(values) for point, values in parts.items()}


class _Enough(Exception):  # noqa: N818 - it ends a run early and is no error
    """Everything that was asked for has been seen."""
