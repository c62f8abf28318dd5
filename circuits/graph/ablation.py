"""What a source's output is replaced with where an edge is cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Model


@dataclass(frozen=True)
class SourceConstants:
    """One constant value a source: zeros, or means over the prompts' positions without BOS.

    `heads` are what `Weights.head_output_weights` acts on; `raw_heads` the heads' plain outputs,
    which are the same unless a norm follows the attention.
    """

    embedding: Float[Tensor, " d_model"]
    heads: tuple[Float[Tensor, "head d_head"], ...]
    mlps: tuple[Float[Tensor, " d_model"], ...]
    raw_heads: tuple[Float[Tensor, "head d_head"], ...]


def source_hooks(
    model: Model, save: Any, layers: Sequence[int] | None = None
) -> list[tuple[str, Any]]:
    """Hooks that hand every source's output to `save(key, value)`.

    Keys are `embedding`, `heads.L` (before the output matrix: batch pos head d_head) and `mlp.L`.
    Where a norm follows the attention, a head's output is divided by what that norm divides by in
    this run, so that all sources add up to the residual stream; `raw.L` is the plain output.
    """
    model.patching.check_parts(model.name)
    raw: dict[int, Tensor] = {}

    def reader(key: str) -> Any:
        return lambda value, hook: save(key, value)

    def divide(layer: int) -> Any:
        def read(scale: Tensor, hook: Any) -> None:
            outputs = raw.pop(layer)
            scale = scale.view(*scale.shape[:2], *[1] * (outputs.ndim - 2)).to(outputs.dtype)
            save(f"raw.{layer}", outputs)
            save(f"heads.{layer}", outputs / scale)

        return read

    hooks = [(taps.EMBEDDING, reader("embedding"))]
    for layer in range(model.n_layers) if layers is None else layers:
        scale, point = model.taps.head_scale(layer), taps.head_outputs(layer)
        if scale is None:
            hooks.append((point, reader(f"heads.{layer}")))
        else:
            keep = partial(lambda at, value, hook: raw.__setitem__(at, value), layer)
            hooks += [(point, keep), (scale, divide(layer))]
        hooks.append((model.taps.mlp_out(layer), reader(f"mlp.{layer}")))
    return hooks


@alone
@torch.no_grad()
def source_constants(
    model: Model, pairs: Sequence[TokenPair], ablation: Ablation | str, batch_size: int = 16
) -> SourceConstants:
    """The constants for ZERO or MEAN ablation; the mean is over all clean prompts' positions.

    Zeros take no pass.
    """
    ablation = Ablation.of(ablation)
    if not ablation.is_constant:
        raise OptionError("patching replaces by the corrupted run, not by constants")
    if ablation == Ablation.ZERO:
        return _zeros(model)
    found = batches(pairs, batch_size, model)
    return mean_constants(model, ((each.clean, pairs[each.index[0]].clean.bos) for each in found))


def mean_constants(model: Model, runs: Iterable[tuple[Tensor, bool]]) -> SourceConstants:
    """Means over all positions of prompts.

    They come in batches of shape batch pos; True for those that begin with a BOS, left out.
    """
    sums: dict[str, Tensor] = {}
    count = 0

    def add(key: str, value: Tensor) -> None:
        value = value.reshape(*value.shape[:2], -1)[:, skip:].float().sum((0, 1))
        value = value.cpu().double()  # MPS has no float64
        sums[key] = sums[key] + value if key in sums else value

    for tokens, bos in runs:
        skip = 1 if bos else 0
        count += tokens[:, skip:].numel()
        model.last_logits(tokens, source_hooks(model, add))
    means = {key: total * (1.0 / count) for key, total in sums.items()}
    values = {key: mean.to(model.device, model.dtype) for key, mean in means.items()}
    layers, shape = range(model.n_layers), (model.n_heads, model.d_head)
    heads = tuple(values[f"heads.{layer}"].reshape(shape) for layer in layers)
    raw = tuple(values.get(f"raw.{at}", heads[at]).reshape(shape) for at in layers)
    return SourceConstants(
        values["embedding"], heads, tuple(values[f"mlp.{layer}"] for layer in layers), raw
    )


def _zeros(model: Model) -> SourceConstants:
    residual = torch.zeros(model.d_model, dtype=model.dtype, device=model.device)
    heads = (residual.new_zeros(model.n_heads, model.d_head),) * model.n_layers
    return SourceConstants(residual, heads, (residual,) * model.n_layers, heads)
