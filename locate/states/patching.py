"""Activation patching by position: which clean state, put into the corrupted run, does the task.

For tasks that are no facts, where no subject is there to be drowned in noise: what is corrupted is
the prompt. Run both prompts of a pair; put one clean state (a kind, a layer or window of layers, a
position) into the corrupted run; what the metric gains over the corrupted run is the state's
effect (Wang et al. 2022; Meng et al. 2022 with another prompt in the place of noise). Positions
before the first difference are the same in both runs and gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Metric, MetricLike, TraceKind
from circuits.base.errors import NumericalError, OptionError
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model
from circuits.model.tokens import Span
from locate.heads.observed import of_pairs
from locate.states.sweep import Measure, probability_of, run_rows
from locate.states.trace_average import by_name, order_of, places_of
from locate.states.trace_result import ALL_KINDS, Trace
from locate.states.trace_roles import AverageTrace
from locate.states.tracing import MAX_ROWS, check_room, restored_values


@alone
@torch.no_grad()
def patch_pairs(
    model: Model,
    pairs: Sequence[TokenPair],
    *,
    kinds: Sequence[TraceKind | str] = ALL_KINDS,
    window: int = 10,
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> AverageTrace:
    """The effect of each state in units of the metric, averaged over pairs by place.

    Places are the spans that the pairs name, other tokens that differ, and what lies around.
    `p_clean` and `p_corrupted` of the result hold the metric of the two runs. OptionError for a
    metric that compares with the clean run, NumericalError where a value is not finite.
    """
    chosen, metric = tuple(dict.fromkeys(TraceKind.of(kind) for kind in kinds)), Metric.of(metric)
    check_room(len(chosen), window, max_rows)
    if metric.relative:
        raise OptionError(f"{metric} compares with the clean run; patching takes another metric")
    metric.check_one_token("patching")
    order, effects = order_of(pairs), {kind: list[np.ndarray]() for kind in chosen}
    ends = np.empty((2, len(pairs)))
    for place, pair in enumerate(pairs):
        (batch,) = batches([pair], 1, model)
        measure = _measure(metric, batch)
        run = run_rows(model, torch.cat([batch.clean, batch.corrupted]), measure)
        found = restored_values(
            model, run, batch.first_difference, chosen, window, measure, max_rows
        )
        ends[:, place] = run.value.float().cpu().numpy()
        names = places_of(pair)
        for kind, values in found.items():
            effects[kind].append(by_name(values[:, :, 0] - ends[1, place], names, order))
        if progress is not None:
            progress(place + 1, len(pairs))
    stacked = {kind: np.stack(each) for kind, each in effects.items()}
    if not np.isfinite(ends).all() or any(np.isinf(each).any() for each in stacked.values()):
        raise NumericalError(f"patching gave NaN or infinity; {model.why_not_finite()}")
    provenance = {
        **model.provenance,
        "method": "activation patching",
        "metric": str(metric),
        "window": window,
        "bos": pairs[0].clean.bos,
        "prompts": [pair.text.clean for pair in pairs],
        **of_pairs(pairs),
    }
    return AverageTrace(stacked, ends[0], ends[1], provenance, order)


@alone
@torch.no_grad()
def patch_prompt(
    model: Model,
    pair: TokenPair,
    *,
    kinds: Sequence[TraceKind | str] = ALL_KINDS,
    window: int = 10,
    max_rows: int = MAX_ROWS,
) -> Trace:
    """One pair by token: the answer's probability with each clean state in the corrupted run.

    A trace whose corruption is the pair's other prompt in the place of noise, so that it shows
    where on the very contrast of a circuit the answer is. OptionError for absurd options,
    NumericalError where a value is not finite.
    """
    chosen = tuple(dict.fromkeys(TraceKind.of(kind) for kind in kinds))
    check_room(len(chosen), window, max_rows)
    (batch,) = batches([pair], 1, model)
    measure = probability_of(pair.answer)
    run = run_rows(model, torch.cat([batch.clean, batch.corrupted]), measure)
    found = restored_values(model, run, batch.first_difference, chosen, window, measure, max_rows)
    ends = run.value.float().cpu().numpy()
    if not all(np.isfinite(values).all() for values in (ends, *found.values())):
        raise NumericalError(f"patching gave NaN or infinity; {model.why_not_finite()}")
    text = pair.text
    first = batch.first_difference
    subject = pair.subject or Span(first, first + 1)
    return Trace(
        prompt=text.clean,
        tokens=pair.clean.tokens,
        subject=subject,
        answer=text.answer,
        answer_token=pair.answer,
        p_clean=float(ends[0]),
        p_corrupted_samples=ends[1:],
        probabilities=found,
        provenance={
            **model.provenance,
            "method": "activation patching",
            "corrupted": text.corrupted,
            "foil": text.foil,
            "window": window,
            "bos": pair.clean.bos,
        },
    )


def _measure(metric: Metric, batch: PairBatch) -> Measure:
    """The metric of rows that all ask for this pair's answer."""

    def measure(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
        def rows(side: Tensor) -> Tensor:
            return side.expand(len(logits), *side.shape[1:])

        return evaluate_metric(metric, logits, rows(batch.wanted), rows(batch.unwanted))

    return measure
