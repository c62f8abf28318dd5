"""Success over many requests: means with bootstrap intervals, before and after the edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from circuits.base.errors import NumericalError
from circuits.base.intervals import UNDEFINED, Interval, bootstrap, mean
from circuits.edits.judge.measures import AGREEMENTS, SCORINGS, Measure, Rates
from circuits.edits.judge.success import RequestScore


@dataclass(frozen=True)
class SuccessTable:
    """Measures over many requests with 95 % intervals, before and after.

    `score` is CounterFact's: the harmonic mean of efficacy, paraphrase and neighbourhood success
    by likelihood. `drift` is the mean over edits of perplexity after over before, `change` and
    `growth` those of the changed weights' norm, each weight for itself. `before` and `after` are
    means over a request's prompts; `knowedit` has portability and locality after the edits by
    KnowEdit's own aggregation, over a request's categories of prompts first; `magnitude` is
    CounterFact's after the edits, which the form of a stored edit does not have.
    """

    n: int
    before: Mapping[Measure, Mapping[str, Interval]]
    after: Mapping[Measure, Mapping[str, Interval]]
    probability: tuple[Interval, Interval]
    fluency: tuple[Interval, Interval]
    score: float
    drift: Interval = UNDEFINED
    change: Interval = UNDEFINED
    entropy_to_end: tuple[Interval, Interval] = (UNDEFINED, UNDEFINED)
    knowedit: Mapping[Measure, Mapping[str, Interval]] = field(default_factory=dict)
    growth: Interval = UNDEFINED
    magnitude: Mapping[Measure, Interval] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; null where a number is undefined."""

        def plain(rows: Mapping[Measure, Mapping[str, Interval]]) -> dict[str, Any]:
            return {
                str(measure): {name: each.as_dict() for name, each in row.items()}
                for measure, row in rows.items()
            }

        return {
            "requests": self.n,
            "before": plain(self.before),
            "after": plain(self.after),
            "knowedit": plain(self.knowedit),
            "probability": [each.as_dict() for each in self.probability],
            "fluency": [each.as_dict() for each in self.fluency],
            "entropy_to_end": [each.as_dict() for each in self.entropy_to_end],
            "score": self.score if np.isfinite(self.score) else None,
            "drift": self.drift.as_dict(),
            "change": self.change.as_dict(),
            "growth": self.growth.as_dict(),
        }


def summarise(
    scores: Sequence[RequestScore],
    drifts: Sequence[float] = (),
    growth: Sequence[Mapping[str, Mapping[str, float]]] = (),
    seed: int = 0,
) -> SuccessTable:
    """One table of many requests; rows that no request has are absent. NumericalError for none."""
    if not scores:
        raise NumericalError("there is no scored request to summarise")
    sizes = [size for each in growth for size in each.values()]

    def estimate(values: Sequence[float], rate: bool = False) -> Interval:
        defined = np.array([value for value in values if np.isfinite(value)])
        return bootstrap(mean, defined, seed=seed, rate=rate) if len(defined) else UNDEFINED

    def rows(
        side: Callable[[RequestScore], Mapping[Measure, Rates]], certain: Sequence[Measure] = ()
    ) -> dict[Measure, Any]:
        return {
            measure: {
                name: estimate(
                    [getattr(side(s)[measure], name) for s in scores if measure in side(s)],
                    rate=measure not in certain,
                )
                for name in SCORINGS
            }
            for measure in Measure
            if any(measure in side(score) for score in scores)
        }

    after = rows(lambda score: score.after)
    return SuccessTable(
        n=len(scores),
        before=rows(lambda score: score.before, AGREEMENTS),
        after=after,
        probability=tuple(estimate([s.probability[i] for s in scores]) for i in (0, 1)),  # type: ignore[arg-type]
        fluency=tuple(estimate([s.fluency[i] for s in scores]) for i in (0, 1)),  # type: ignore[arg-type]
        knowedit=rows(lambda score: score.by_category),
        entropy_to_end=tuple(estimate([s.entropy_to_end[i] for s in scores]) for i in (0, 1)),  # type: ignore[arg-type]
        score=_counterfact_score(after),
        drift=estimate(drifts),
        change=estimate([size["change"] for size in sizes]),
        growth=estimate([size["growth"] for size in sizes]),
        magnitude={
            measure: estimate([s.magnitude[measure] for s in scores if measure in s.magnitude])
            for measure in Measure
            if any(measure in score.magnitude for score in scores)
        },
    )


def _counterfact_score(after: Mapping[Measure, Mapping[str, Interval]]) -> float:
    parts = (Measure.EFFICACY, Measure.PARAPHRASE, Measure.NEIGHBOURS_TRUE)
    values = [after[part]["likelihood"].value for part in parts if part in after]
    if len(values) < len(parts) or not np.all(np.isfinite(values)):
        return float("nan")
    return len(values) / sum(1 / value for value in values) if all(values) else 0.0
