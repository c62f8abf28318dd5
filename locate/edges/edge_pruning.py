"""Edge Pruning: masks on all edges, learnt together, as a slow and strong reference.

Bhaskar et al. 2024 (arXiv:2406.16778). Every edge e has a hard-concrete mask (Louizos et al. 2018,
arXiv:1712.01312), drawn anew in each update from u uniform in (0, 1):

    z_e = clip(1.2 sigmoid((log u - log(1 - u) + a_e) / b) - 0.1, 0, 1),   b = 2/3,
    P(z_e > 0) = sigmoid(a_e - b log(0.1 / 1.1)).

The a_e descend on what the masked model loses, and on a Lagrangian that holds the expected share
of kept edges k = mean P(z > 0) to a target t that falls from 1 to `share`, by the same factor in
each update:

    mean (m(whole) - m(masked))^2 / mean (m(whole) - m(empty))^2
        + l1 log(k / t) + l2 log(k / t)^2,             l1 and l2 ascending.

An edge's score is its P(z > 0) at the end: how readily it would be kept in a circuit of this size.
It has no sign, is no change of the metric, and there is none of a single pair. Metrics of whole
answers are refused: the square of a sum over an answer's tokens is no sum over them.

Departures from the paper: it takes the divergence of the masked model as the first term (with the
metric `kl` it is squared here) and holds 1 - k to a target that rises evenly, so that most updates
are spent on circuits far too large; it has masks on nodes besides, and batches, where here every
update sees all pairs, so that order and batches do not matter. Runs are those of
`circuits.graph.soft`, hence of the same circuits as everywhere.

Cost: two clean passes and a backward pass an update, or somewhat more in small models, where what
each destination reads of each source counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import NumericalError
from circuits.base.progress import Progress
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.graph.running import head_projections
from circuits.graph.scores import EdgeScores
from circuits.graph.soft import SoftRunner
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.search import Scoring

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
"""Ends to which a mask is stretched before it is clipped, and how sharp it is."""
START = 10.0
"""Where a begins: nearly every mask is 1."""
FALLING = 0.9
"""Share of the updates in which the target falls; in the rest it stays."""
PRICES = 1 / 3
"""The prices' learning rate, as a share of the masks'."""
BETAS = 0.9, 0.99
"""How long Adam remembers slopes and their squares."""
_NEAREST = 1e-6


@alone
def attribute(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> EdgeScores:
    """How readily each edge is kept, 0 to 1.

    `progress` is called with (updates done, updates in all). NumericalError where the loss is not
    finite, or the whole model's metric is that of the empty circuit, so that nothing can be lost.
    """
    options, wiring = scoring.options, model.wiring(scoring.kv)
    task = _Task(model, pairs, wiring, scoring, batch_size)
    generator = torch.Generator().manual_seed(options.seed)
    openness = torch.full((wiring.n_edges,), START, requires_grad=True)
    prices = torch.zeros(2, requires_grad=True)
    descent = torch.optim.Adam([openness], lr=options.rate, betas=BETAS)
    ascent = torch.optim.Adam([prices], lr=PRICES * options.rate, maximize=True)
    for update in range(options.updates):
        chance = torch.rand(wiring.n_edges, generator=generator)
        chance = chance.clamp(_NEAREST, 1 - _NEAREST)
        with torch.enable_grad():
            masks = _drawn(openness, chance)
            fallen = min(1.0, (update + 1) / (FALLING * options.updates))
            away = _kept(openness).mean().log() - fallen * math.log(options.share)
            price = prices[0] * away + prices[1] * away**2
            slopes = task.slopes(masks.detach())
            descent.zero_grad()
            ascent.zero_grad()
            torch.autograd.backward([masks, price], [slopes, torch.ones(())])
        descent.step()
        ascent.step()
        if progress is not None:
            progress(update + 1, options.updates)
    provenance = {**model.provenance, **scoring.record(), "pairs": len(pairs)}
    values = _kept(openness.detach()).numpy().astype(np.float32)
    return EdgeScores(wiring, values, None, provenance)


def _drawn(
    openness: Float[Tensor, " edge"], chance: Float[Tensor, " edge"]
) -> Float[Tensor, " edge"]:
    """Masks."""
    soft = torch.sigmoid((torch.logit(chance) + openness) / TEMPERATURE)
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1)


def _kept(openness: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """The chance that a mask is above 0."""
    return torch.sigmoid(openness - TEMPERATURE * math.log(-LOW / HIGH))


class _Task:
    """What masks lose on all pairs, in units of what the empty circuit loses."""

    def __init__(
        self,
        model: Model,
        pairs: Sequence[TokenPair],
        wiring: Wiring,
        scoring: Scoring,
        batch_size: int,
    ) -> None:
        self.model, self.wiring, self.scoring = model, wiring, scoring
        constants = None
        if scoring.ablation.is_constant:
            constants = source_constants(model, pairs, scoring.ablation, batch_size)
        projections = head_projections(model, wiring)
        self.runs = [
            (
                SoftRunner(model, batch, wiring, scoring.ablation, constants, projections),
                batch,
            )
            for batch in batches(pairs, batch_size, model)
        ]
        self.ends = torch.from_numpy(wiring.edge_src), torch.from_numpy(wiring.edge_dst)
        empty = self._matrix(torch.zeros(wiring.n_edges))
        with torch.no_grad():
            whole = [self._lost(run, batch, run.run_masked(empty)) for run, batch in self.runs]
        self.unit = float(torch.stack(whole).sum())
        if not (math.isfinite(self.unit) and self.unit > 0):
            raise NumericalError(
                "the metric of the whole model and of the empty circuit must be finite and differ "
                "for masks to be learnt"
            )

    def slopes(self, masks: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
        """The gradient of the share that is lost in each edge's mask."""
        matrix, total = self._matrix(masks), torch.zeros(len(masks), dtype=torch.float64)
        for run, batch in self.runs:
            value, gradient = run.gradient(matrix, lambda x, r=run, b=batch: self._lost(r, b, x))
            if not math.isfinite(value):
                why = self.model.why_not_finite()
                raise NumericalError(f"the metric of the masked model is not finite; {why}")
            total += gradient.cpu()[self.ends].double()
        return (total / self.unit).float()

    def _matrix(self, masks: Float[Tensor, " edge"]) -> Float[Tensor, "src dst"]:
        matrix = torch.zeros(self.wiring.n_src, self.wiring.n_dst)
        matrix[self.ends] = masks
        return matrix.to(self.model.device)

    def _lost(
        self, run: SoftRunner, batch: PairBatch, logits: Float[Tensor, "batch d_vocab"]
    ) -> Float[Tensor, ""]:
        """Summed over the pairs of a batch."""
        sides = batch.wanted, batch.unwanted
        metric, clean = self.scoring.metric, run.clean_logits
        before, after = (evaluate_metric(metric, each, *sides, clean) for each in (clean, logits))
        return (before - after).float().square().sum()
