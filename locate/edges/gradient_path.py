"""EAP-GP: integrated gradients along a path that follows the model instead of a straight line.

Zhang et al. 2025 (arXiv:2502.06852), after the path of IG2 (Zhuo and Ge 2024, arXiv:2406.10852).
EAP-IG's straight line between two embeddings may spend most of its steps where the model is
saturated. Here the path starts at the clean embedding z_0 and goes to where the output is most
quickly like the corrupted one's:

    z_j+1 = z_j - step g_j / |g_j|,    g_j = d |G(z_j) - G(corrupted)|^2 / dz_j,

with G the logits and |g_j| the norm over all positions of a pair; `step` is 1 in the paper, in
units of the embedding. Scores are those of EAP with the gradient's mean over z_1 ... z_steps:

    score(u -> v) = sum over positions of (clean - corrupted output of u) . mean_j dm/d(input of v)

The path need not end at the corrupted embedding, so the scores need not sum to what the metric
loses, as EAP-IG's do in the limit. Here G is the logits after the last token, from which metrics
are read, and tokens before the prompts' first difference stay as they are; the paper does not say
that it leaves other positions' logits out.

Cost: 1 corrupted, 1 clean, and 2 `steps` forward and backward passes, twice EAP-IG's. They are made
by the same function as EAP's (`locate.edges.eap`).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.model import taps
from circuits.model.tensors import at_least_fp32
from locate.edges.locators import GradientPath
from locate.edges.runs import Recorded


def along_the_gradient(runs: Recorded) -> None:
    """The gradient at the points of the path, after the clean and the corrupted run."""
    differences, options = runs.differences, runs.scoring.options
    assert isinstance(options, GradientPath)
    with torch.no_grad():
        clean_logits = runs.last_logits(runs.clean, differences.hooks(1))
        point = runs.model.embed(runs.clean)
        target = _corrupted_logits(runs, point)
    moving = _moving(runs)
    for _ in range(runs.scoring.steps):
        point = _step(runs, point, target, moving, options.step)
        runs.backward(clean_logits, point)


def _corrupted_logits(
    runs: Recorded, like: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch d_vocab"]:
    """What the path goes to; completes the differences."""
    if runs.constants is None:
        return runs.last_logits(runs.corrupted, runs.differences.hooks(-1))
    runs.see_corrupted()
    constant = runs.constants.embedding.expand_as(like)
    return runs.last_logits(runs.clean, [(taps.EMBEDDING, lambda value, hook: constant)])


def _moving(runs: Recorded) -> Bool[Tensor, "batch pos 1"]:
    """Positions from each pair's own first difference on, whatever its batch mates share."""
    differs = runs.clean != runs.corrupted
    if runs.constants is not None:
        differs = torch.ones_like(differs)
    return (differs.cumsum(1) > 0).unsqueeze(-1)


def _step(
    runs: Recorded,
    point: Float[Tensor, "batch pos d_model"],
    target: Float[Tensor, "batch d_vocab"],
    moving: Bool[Tensor, "batch pos 1"],
    length: float,
) -> Float[Tensor, "batch pos d_model"]:
    """The next point; the same one where the output is the target's already."""
    with torch.enable_grad():
        start = point.detach().requires_grad_(True)
        logits = runs.last_logits(runs.clean, [(taps.EMBEDDING, lambda value, hook: start)])
        distance = (at_least_fp32(logits) - at_least_fp32(target)).square().sum()
        (gradient,) = torch.autograd.grad(distance, start)
    gradient = at_least_fp32(gradient) * moving
    norm = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return (at_least_fp32(point) - length * gradient / norm.view(-1, 1, 1)).to(point.dtype)
