"""Causal tracing as the plain loop: one full forward pass for every state that is restored.

What benchmarks and tests hold `locate.states.sweep` against; it shares no code with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.choices import TraceKind
from circuits.model import taps
from circuits.model.model import Hook, Model
from circuits.model.tokens import Span


@torch.no_grad()
def plain_trace(
    model: Model,
    ids: Int[Tensor, " pos"],
    subject: Span,
    answer: int,
    noise: Float[Tensor, "sample subject d_model"],
    kind: TraceKind,
    window: int = 10,
    positions: Iterable[int] | None = None,
) -> dict[int, Float[Tensor, "layer sample"]]:
    """Answer probabilities by position; every state costs a forward pass of all rows."""
    point = {
        TraceKind.RESID: taps.resid_post,
        TraceKind.MLP: model.taps.mlp_out,
        TraceKind.ATTN: model.taps.attention_out,
    }[kind]
    rows = ids.expand(noise.shape[0] + 1, -1)
    positions = range(len(ids)) if positions is None else positions
    found = {}
    for position in positions:
        by_layer = []
        for layer in range(model.n_layers):
            layers = _window(kind, layer, window, model.n_layers)
            hooks = [_corrupt(subject, noise), *_restore(point, layers, position)]
            logits = model.last_logits(rows, hooks)
            by_layer.append(logits[1:].float().softmax(-1)[:, answer])
        found[position] = torch.stack(by_layer)
    return found


def _window(kind: TraceKind, layer: int, window: int, n_layers: int) -> Sequence[int]:
    if kind == TraceKind.RESID:
        return [layer]
    return [other for other in range(n_layers) if -window <= 2 * (other - layer) < window]


def _corrupt(subject: Span, noise: Tensor) -> Hook:
    def add(value: Tensor, hook: object) -> Tensor:
        value = value.clone()
        value[1:, subject.start : subject.stop] += noise.to(value.dtype)
        return value

    return (taps.EMBEDDING, add)


def _restore(point: Callable[[int], str], layers: Sequence[int], position: int) -> list[Hook]:
    def put_back(value: Tensor, hook: object) -> Tensor:
        value = value.clone()
        value[1:, position] = value[0, position]
        return value

    return [(point(layer), put_back) for layer in layers]
