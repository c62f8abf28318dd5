"""The mean metric of one circuit after another, where each asks for the next.

One base run a batch of pairs serves all circuits and is kept between them: some seven numbers of
d_model a layer and recomputed token. Circuits that are known together go through
`circuits.graph.evaluate`, which keeps one batch at a time and every pair's value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.base.choices import Ablation, Metric, MetricLike
from circuits.base.errors import NumericalError, OptionError
from circuits.facts.pairs import PairBatch, TokenPair, batches
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Wiring
from circuits.graph.running import CircuitRunner, head_projections
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model


class MeanMetric:
    """The metric of a circuit, averaged over all pairs; one cached base run a batch."""

    @torch.no_grad()
    def __init__(
        self,
        model: Model,
        pairs: Sequence[TokenPair],
        wiring: Wiring,
        metric: MetricLike,
        ablation: Ablation | str,
        batch_size: int,
    ) -> None:
        metric, ablation = Metric.of(metric), Ablation.of(ablation)
        if not pairs:
            raise OptionError("there are no prompt pairs to work on")
        constants = None
        if ablation.is_constant:
            constants = source_constants(model, pairs, ablation, batch_size)
        self._model, self.metric, self.n_pairs, self.n_runs = model, metric, len(pairs), 0
        projections = head_projections(model, wiring)
        self._runs: list[tuple[PairBatch, CircuitRunner]] = [
            (batch, CircuitRunner(model, batch, wiring, ablation, constants, projections))
            for batch in batches(pairs, batch_size, model)
        ]

    def whole(self) -> float:
        """The mean metric of the whole model."""
        return self._mean([runner.clean_logits for _, runner in self._runs], "of the whole model")

    def of(self, kept: Bool[np.ndarray, "src dst"], tried: str | None = None) -> float:
        """Mean metric with these edges kept; `tried` is the removed edge, for the error message."""
        self.n_runs += 1
        place = f"without {tried}" if tried else "of the whole model"
        return self._mean([runner.run(kept) for _, runner in self._runs], place)

    def _mean(self, logits: Sequence[Tensor], place: str) -> float:
        total = 0.0
        for (batch, runner), found in zip(self._runs, logits, strict=True):
            clean = runner.clean_logits
            values = evaluate_metric(self.metric, found, batch.wanted, batch.unwanted, clean)
            total += float(values.cpu().double().sum())
        if not math.isfinite(total):
            why = self._model.why_not_finite()
            raise NumericalError(f"the metric {place} is not a finite number; {why}")
        return total / self.n_pairs
