"""What circuits recall of a batch of pairs, one circuit after another.

One base run a batch serves all circuits. It may be kept between them, some seven numbers of d_model
a layer and recomputed token; then what was run once is not run again. Circuits that are known
together go through `circuits.graph.evaluate`, which keeps one batch at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.base.choices import Ablation, Metric, MetricLike
from circuits.base.errors import NumericalError, OptionError
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.facts.spans import batch_places, check_told_apart
from circuits.facts.whole_answers import Parts
from circuits.graph.ablation import source_constants
from circuits.graph.running import CircuitRunner, head_projections
from circuits.model.metrics import evaluate_metric, hit_at
from circuits.model.model import Model
from circuits.model.wiring import Wiring

Measured = tuple[Tensor, Tensor]
"""A metric value and a hit a part of a pair, on the CPU."""


class BatchRuns:
    """The base run of a batch, and the metric and Hit@k of each row in the circuits run on it."""

    def __init__(self, base: BaseRuns, batch: PairBatch, runner: CircuitRunner) -> None:
        self.base, self.batch, self.runner = base, batch, runner
        self.whole = self._measured(runner.clean_logits)
        self._seen: dict[bytes, Measured] = {}

    def of(self, kept: Bool[np.ndarray, "*span src dst"]) -> Measured:
        """With these edges kept."""
        name = sha256(np.packbits(kept).data).digest()
        if name not in self._seen:
            self._seen[name] = self._measured(self.runner.run(kept))
        return self._seen[name]

    def _measured(self, logits: Float[Tensor, "batch d_vocab"]) -> Measured:
        base, batch, clean = self.base, self.batch, self.runner.clean_logits
        values = evaluate_metric(base.metric, logits, batch.wanted, batch.unwanted, clean).cpu()
        if not bool(values.isfinite().all()):  # said by whoever knows the pairs and the circuit
            return values, torch.zeros_like(values, dtype=torch.bool)
        return values, hit_at(logits, batch.wanted, base.k).cpu()


class BaseRuns:
    """Every batch's base run, made as it is asked for; kept from then on once `keep` was called.

    Batches are of `parts`, which are more than the pairs where the metric is of whole answers.
    `lean` ones are never kept, and hold the matrices of one layer: less memory, for more time.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[TokenPair],
        wiring: Wiring,
        metric: MetricLike,
        ablation: Ablation | str,
        batch_size: int,
        k: int = 10,
        lean: bool = False,
    ) -> None:
        self.metric, self.ablation = Metric.of(metric), Ablation.of(ablation)
        if not pairs:
            raise OptionError("there are no prompt pairs to work on")
        check_told_apart(pairs, wiring.spans)
        self.model, self.pairs, self.wiring = model, pairs, wiring
        self.parts = Parts.of(model.tokenizer, pairs, self.metric)
        self.batch_size, self.k, self.lean = batch_size, k, lean
        self._kept: list[BatchRuns] | None = None

    def keep(self) -> BaseRuns:
        """Run and keep them all, but for lean ones."""
        if self._kept is None and not self.lean:
            self._kept = list(self)
        return self

    def check_like(self, other: BaseRuns) -> None:
        """OptionError where they were made otherwise than these would be; it names in what."""
        made = {
            "pairs": tuple(self.pairs) == tuple(other.pairs),
            "wiring": self.wiring == other.wiring,
            "metric": self.metric == other.metric,
            "ablation": self.ablation == other.ablation,
            "k": self.k == other.k,
        }
        if differ := [name for name, same in made.items() if not same]:
            raise OptionError(
                f"the base runs were made with another {' and '.join(differ)} than is asked for: "
                "make them anew, or give none"
            )

    def of_size(self, batch_size: int) -> BaseRuns:
        """The same ones in smaller batches."""
        given = self.model, self.pairs, self.wiring, self.metric, self.ablation
        return BaseRuns(*given, batch_size, self.k, self.lean)

    @torch.no_grad()
    def __iter__(self) -> Iterator[BatchRuns]:
        if self._kept is not None:
            yield from self._kept
            return
        model, wiring, parts, constants = self.model, self.wiring, self.parts.pairs, None
        if self.ablation.is_constant:
            constants = source_constants(model, parts, self.ablation, self.batch_size)
        projections = head_projections(model, wiring, self.lean)
        how = {"mixed": not self.lean, "whole": self.ablation.is_constant}
        for batch in batches(parts, self.batch_size, model, **how):
            places = batch_places(parts, batch, wiring.spans)
            asked = wiring, self.ablation, constants, projections, places
            runner = CircuitRunner(model, batch, *asked)
            yield BatchRuns(self, batch, runner)


class MeanMetric:
    """The metric of a circuit, averaged over all pairs; the base runs are kept."""

    def __init__(self, base: BaseRuns) -> None:
        self._base, self.n_runs = base.keep(), 0

    def whole(self) -> float:
        """The mean metric of the whole model."""
        return self._mean([each.whole for each in self._base], "of the whole model")

    def of(self, kept: Bool[np.ndarray, "*span src dst"], tried: str | None = None) -> float:
        """Mean metric with these edges kept; `tried` is the removed edge, for the error message."""
        self.n_runs += 1
        place = f"without {tried}" if tried else "of the whole model"
        return self._mean([each.of(kept) for each in self._base], place)

    def _mean(self, found: Sequence[Measured], place: str) -> float:
        total = sum(float(values.double().sum()) for values, _ in found)
        if not math.isfinite(total):
            why = self._base.model.why_not_finite()
            raise NumericalError(f"the metric {place} is not a finite number; {why}")
        return total / len(self._base.pairs)
