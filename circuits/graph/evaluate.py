"""How well a circuit alone recalls the facts, with intervals over the facts.

Conventions (Hanna et al. 2024, Mueller et al. 2025): m is the metric's mean over pairs, M the
whole model, C the circuit, the empty circuit has every edge replaced.

    faithfulness  f(C) = (m(C) - m(empty)) / (m(M) - m(empty))
    completeness       = f(all edges outside C); low means that C left little behind
    drop(e)            = f(C) - f(C without e); minimal where C needs every edge

f is undefined where m(M) = m(empty); then it is NaN here and null on disk, never a number.
Whole curves, with CPR and CMD, are in `circuits.graph.curves`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.base.choices import Ablation, Metric, MetricLike
from circuits.base.display import Shown, Summary
from circuits.base.errors import NumericalError, OptionError
from circuits.base.intervals import UNDEFINED, Interval, bootstrap, bootstrap_ratios, mean
from circuits.facts.batches import PairBatch
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.measuring import BaseRuns
from circuits.graph.noise import Sample, in_words, sample_of
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.wiring import Wiring

UNDEFINED_BELOW = 1e-6
"""Faithfulness is undefined where |m(M) - m(empty)| is not above this."""


@dataclass(frozen=True)
class Outcome:
    """What one run recalls: a metric value and a Hit@10 a pair."""

    metric: Float[np.ndarray, " pair"]
    hit: Bool[np.ndarray, " pair"]


@dataclass(frozen=True)
class Runs:
    """Outcomes of the model, of the empty circuit and of circuits, on the same pairs.

    `sample` says which pairs ask the same fact; None: every pair is an observation of its own.
    """

    model: Outcome
    empty: Outcome
    circuits: tuple[Outcome, ...]
    sample: Sample | None = None

    @property
    def groups(self) -> Int[np.ndarray, " pair"]:
        """For each pair the number of the observation that it belongs to."""
        return np.arange(len(self.model.metric)) if self.sample is None else self.sample.groups

    def interval(
        self,
        statistic: Callable[..., np.ndarray],
        *columns: np.ndarray,
        resamples: int,
        seed: int,
        rate: bool = False,
    ) -> Interval:
        """A statistic of values a pair, pairs that ask one fact drawn together."""
        given: dict[str, Any] = {"resamples": resamples, "seed": seed, "groups": self.groups}
        return bootstrap(statistic, *columns, **given, rate=rate)

    def faithfulness(self, index: int, resamples: int = 1000, seed: int = 0) -> Interval:
        """f of a circuit, as a ratio of means."""
        columns = (self.circuits[index].metric, self.model.metric, self.empty.metric)
        return self.interval(restored, *columns, resamples=resamples, seed=seed)

    def at(self, rows: Sequence[int]) -> Runs:
        """The same of some of the pairs alone."""

        def some(outcome: Outcome) -> Outcome:
            return Outcome(outcome.metric[list(rows)], outcome.hit[list(rows)])

        circuits = tuple(some(outcome) for outcome in self.circuits)
        sample = None if self.sample is None else self.sample.at(rows)
        return Runs(some(self.model), some(self.empty), circuits, sample)

    def difference(self, left: int, right: int, resamples: int = 1000, seed: int = 0) -> Interval:
        """f of one circuit minus f of another, resampling the same facts for both."""

        def statistic(
            a: np.ndarray, b: np.ndarray, model: np.ndarray, empty: np.ndarray, axis: int
        ) -> np.ndarray:
            return np.asarray(restored(a, model, empty, axis) - restored(b, model, empty, axis))

        pair = (self.circuits[left].metric, self.circuits[right].metric)
        columns = (*pair, self.model.metric, self.empty.metric)
        return self.interval(statistic, *columns, resamples=resamples, seed=seed)


@alone
def run_circuits(
    model: Model,
    pairs: Sequence[TokenPair],
    circuits: Sequence[Circuit],
    *,
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    ablation: Ablation | str = Ablation.PATCH,
    batch_size: int = 16,
    k: int = 10,
    progress: Callable[[int, int], None] | None = None,
    base: BaseRuns | None = None,
) -> Runs:
    """Run the model, the empty circuit and every circuit on every pair.

    All circuits must share one wiring; one base pass serves them all: `base`, where one was made
    before with the same pairs and options. Of an answer of several tokens that a metric asks for
    whole, Hit@k is that all of them are hit. NumericalError where a metric is not finite,
    OptionError for a `base` of other pairs or options.
    """
    metric, ablation = Metric.of(metric), Ablation.of(ablation)
    if not pairs:
        raise OptionError("there are no prompt pairs to evaluate on")
    wirings = {circuit.wiring for circuit in circuits} or {model.wiring()}
    if len(wirings) > 1:
        raise OptionError("circuits of different wirings cannot be evaluated together")
    wiring = wirings.pop()
    check_geometry(model, wiring)
    asked = BaseRuns(model, pairs, wiring, metric, ablation, batch_size, k)
    if base is None:
        base = asked
    else:
        base.check_like(asked)
        if base.batch_size > batch_size:  # one that memory does not hold begins again
            base = base.of_size(batch_size)
    n_runs, parts = len(circuits) + 2, base.parts
    metrics, hits = np.empty((n_runs, len(parts))), np.empty((n_runs, len(parts)), dtype=bool)
    done = 0
    for each in base:
        rows = list(each.batch.index)
        for run, circuit in enumerate([Circuit.full(wiring), Circuit.empty(wiring), *circuits]):
            # The full circuit is the clean run (a law that the tests hold for the runner).
            values, hit = each.whole if circuit.kept.all() else each.of(circuit.matrix())
            metrics[run, rows] = values.float().numpy()
            _check_finite(model, metrics[run], each.batch, parts.pairs, run)
            hits[run, rows] = hit.numpy()
        done += len(rows)
        if progress is not None:
            progress(done, len(parts))
    columns = zip(parts.sums(metrics), parts.all(hits), strict=True)
    outcomes = [Outcome(values, hit) for values, hit in columns]
    sample = sample_of(pairs)
    return Runs(outcomes[0], outcomes[1], tuple(outcomes[2:]), sample)


def _check_finite(
    model: Model, metrics: np.ndarray, batch: PairBatch, pairs: Sequence[TokenPair], run: int
) -> None:
    for row in batch.index:
        if not np.isfinite(metrics[row]):
            name = ("the whole model", "the empty circuit", "a circuit")[min(run, 2)]
            raise NumericalError(
                f"the metric of {name} is not a finite number for the prompt "
                f"{pairs[row].text.clean!r}; {model.why_not_finite()}"
            )


def check_geometry(model: Model, wiring: Wiring) -> None:
    """OptionError where a circuit does not fit the model."""
    if model.wiring(wiring.kv) != wiring.with_spans():
        raise OptionError(
            f"the circuit is for {wiring.describe()}, but {model.name!r} has "
            f"{model.wiring(wiring.kv).describe()}"
        )


@dataclass(frozen=True)
class Evaluation(Shown):
    """One circuit's measures; metric values and rates are means over `n_pairs` pairs.

    Intervals are over `n_drawn` of what `drawn` names: `pairs` where each is an observation of its
    own, `facts` where several pairs ask one, `partners` of a single fact.
    """

    n_pairs: int
    n_edges: int
    n_nodes: int
    clean: Interval
    corrupted: Interval
    circuit: Interval
    faithfulness: Interval
    completeness: Interval
    hit_at_10: dict[str, Interval]
    random_faithfulness: Interval
    drawn: str
    n_drawn: int

    @property
    def over(self) -> str:
        """What the intervals are over, in words: `pairs`, or `16 facts` where these are fewer."""
        return in_words(self.drawn, self.n_drawn)

    def summary(self) -> Summary:
        """All measures; a rate or ratio that does not exist is left out."""
        measures = {
            "metric, whole model": self.clean,
            "metric, nothing kept": self.corrupted,
            "metric, circuit": self.circuit,
            "faithfulness": self.faithfulness,
            "faithfulness, random circuits": self.random_faithfulness,
            "faithfulness, all edges outside": self.completeness,
            **{f"Hit@10, {name}": rate for name, rate in self.hit_at_10.items()},
        }
        rows = [(name, str(x)) for name, x in measures.items() if np.isfinite(x.value)]
        return Summary(
            f"Evaluation of {self.n_edges:,} edges between {self.n_nodes:,} nodes",
            {"pairs": f"{self.n_pairs:,}"},
            f"means, and 95 % intervals over {self.over}",
            ("measure", "value"),
            rows,
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON."""

        def plain(value: object) -> object:
            if isinstance(value, dict):
                return {name: plain(item) for name, item in value.items()}
            return value.as_dict() if isinstance(value, Interval) else value

        return {name: plain(value) for name, value in vars(self).items()}


@alone
def evaluate(
    model: Model,
    pairs: Sequence[TokenPair],
    circuit: Circuit,
    *,
    random_circuits: Sequence[Circuit] = (),
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    ablation: Ablation | str = Ablation.PATCH,
    batch_size: int = 16,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    base: BaseRuns | None = None,
) -> Evaluation:
    """Faithfulness, completeness and Hit@10 of a circuit, beside random circuits.

    `random_circuits` are the baseline, of the circuit's size; their outcomes are averaged pair by
    pair before the interval is taken. Intervals are 95 % percentile bootstrap over facts, each with
    all pairs that ask it, or over the partners of a single fact; there are none where these are
    fewer than `FEWEST`. `base` as of `run_circuits`.
    """
    runs = run_circuits(
        model,
        pairs,
        [circuit, ~circuit, *random_circuits],
        metric=metric,
        ablation=ablation,
        batch_size=batch_size,
        progress=progress,
        base=base,
    )
    return evaluation_of(runs, circuit, resamples, seed)


def evaluation_of(runs: Runs, circuit: Circuit, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """The measures of runs of the circuit, of its complement and of random circuits, in order."""

    def average(values: np.ndarray) -> Interval:
        return runs.interval(mean, values, resamples=resamples, seed=seed)

    def rate(values: np.ndarray) -> Interval:
        return runs.interval(mean, values, resamples=resamples, seed=seed, rate=True)

    def ratio(values: np.ndarray) -> Interval:
        columns = (values, runs.model.metric, runs.empty.metric)
        return runs.interval(restored, *columns, resamples=resamples, seed=seed)

    drawn, sample = runs.circuits[2:], runs.sample
    hits = {"model": rate(runs.model.hit), "circuit": rate(runs.circuits[0].hit)}
    hits["empty"] = rate(runs.empty.hit)
    if drawn:
        hits["random"] = rate(np.mean([run.hit for run in drawn], 0))
    return Evaluation(
        n_pairs=len(runs.model.metric),
        n_edges=circuit.n_edges,
        n_nodes=len(circuit.nodes()),
        clean=average(runs.model.metric),
        corrupted=average(runs.empty.metric),
        circuit=average(runs.circuits[0].metric),
        faithfulness=ratio(runs.circuits[0].metric),
        completeness=ratio(runs.circuits[1].metric),
        hit_at_10=hits,
        random_faithfulness=ratio(np.mean([r.metric for r in drawn], 0)) if drawn else UNDEFINED,
        drawn="pairs" if sample is None else sample.drawn,
        n_drawn=len(runs.model.metric) if sample is None else sample.observations,
    )


@alone
def single_edge_drops(
    model: Model,
    pairs: Sequence[TokenPair],
    circuit: Circuit,
    *,
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    ablation: Ablation | str = Ablation.PATCH,
    batch_size: int = 16,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """Drop in faithfulness when each kept edge alone is removed, in canonical order.

    Near 0: the circuit would do without that edge; below: it does better without. Intervals are
    over facts, for each edge by itself. One run an edge.
    """
    without = []
    for edge in circuit.edges():
        kept = circuit.kept.copy()
        kept[edge] = False
        without.append(Circuit(circuit.wiring, kept))
    runs = run_circuits(
        model,
        pairs,
        [circuit, *without],
        metric=metric,
        ablation=ablation,
        batch_size=batch_size,
    )
    whole, *rest = (outcome.metric for outcome in runs.circuits)
    lost = whole[:, None] - np.stack(rest, 1)
    span = np.repeat((runs.model.metric - runs.empty.metric)[:, None], len(rest), 1)
    drawn: dict[str, Any] = {"resamples": resamples, "seed": seed, "groups": runs.groups}
    return tuple(bootstrap_ratios(lost, span, UNDEFINED_BELOW, **drawn))


def restored(
    circuit: np.ndarray, model: np.ndarray, empty: np.ndarray, axis: int = -1
) -> np.ndarray:
    """(mean circuit - mean empty) / (mean model - mean empty)."""
    span = np.asarray(model.mean(axis) - empty.mean(axis))
    defined = np.abs(span) > UNDEFINED_BELOW
    safe = np.where(defined, span, 1.0)
    return np.where(defined, (circuit.mean(axis) - empty.mean(axis)) / safe, np.nan)
