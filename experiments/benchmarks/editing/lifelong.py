"""Edits in sequence: what becomes of the first when the last is made.

Every case is edited on the model as it is after those before it. After every `every` edits all
edits so far are judged again, beside perplexity and the growth of the weights; each is judged right
after it was made too, which is all that EasyEdit's `sequential_edit` reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from circuits.base.choices import Control
from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.base.options import Options, option
from circuits.base.plain import number
from circuits.edits.edit import WeightDelta
from circuits.edits.effects.control import control, control_seed
from circuits.edits.judge.measures import SCORINGS, Measure
from circuits.edits.judge.success import Judge, RequestScore, norm_growth
from experiments.analyses.edit_study.stored import edits_made, mean_values, score_values
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.claims import Claim, average, difference
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table, shown
from experiments.benchmarks.base import Bench, Benchmark, edit_or
from experiments.benchmarks.editing.cases import Case, single_edits
from experiments.benchmarks.editing.report import unasked_text
from experiments.benchmarks.editing.run import RANDOM, editor_of, judge_of
from viz.paper.charts import Lines

SHOWN = (Measure.EFFICACY, Measure.PARAPHRASE, Measure.PORTABILITY, Measure.LOCALITY)
UNEDITED = "no edit"
SCORED = ("generation", "tokens")
"""Scorings that the page shows; a file has all."""
DRAWS = 3
"""Random changes that stand beside all edits of a method."""
FAILED = "failed"
"""The status of an edit that cannot be made."""
WORDS = {
    Measure.EFFICACY: "reliability",
    Measure.PARAPHRASE: "generalisation",
    Measure.PORTABILITY: "portability",
    Measure.LOCALITY: "locality",
}
METHOD = (
    "Cases are edited one after the other on the same model. An edit that diverges or cannot be "
    "made, or whose answer the model gives already, leaves the model as it is and is judged on it "
    "like the others: every rate is of all cases so far, and `edits made` says how many were "
    "edited. A case that cannot be asked has no part in the sequence.",
    "`Right after` judges an edit when it has just been made, `in the end` when all have been. "
    "Beside them stand the unedited model and the mean of three random changes with the singular "
    "values of all edits together, at the same weights. Locality is agreement with the unedited "
    "model. Intervals are 95 % bootstrap intervals over the edits of this one sequence; what "
    "another order of them would give is not in the intervals.",
)


@dataclass(frozen=True)
class Settings(Options):
    """How often a sequence is judged."""

    every: int = option(5, "after how many edits all edits so far are judged", low=1)


def compute(bench: Bench, cases: Sequence[Case], method: str) -> dict[str, Any]:
    """All cases in sequence by one method; `means` are over the cases, in the end and before."""
    wanted = [request for case in cases for request in case.requests]
    judge = judge_of(bench, wanted, fluency=False, lenient=True)
    requests, editor = judge.requests, editor_of(bench, method)
    every = bench.settings.every
    done: list[int] = []
    status: dict[str, int] = {}
    failed: list[str] = []
    right_after: list[RequestScore] = []
    stops: list[dict[str, Any]] = []
    total: WeightDelta | None = None
    with ExitStack() as edits:
        for index, request in enumerate(requests):
            try:
                outcome = editor([request], [requests[each] for each in done])
            except (NumericalError, OptionError, PromptError) as error:
                failed.append(str(error))
                name, delta = FAILED, None
            else:
                name, delta = str(outcome.status), outcome.delta
            if len(failed) == len(requests):
                raise PromptError(f"no edit can be made, the first: {failed[0]}")
            if delta is not None:
                edits.enter_context(delta.applied(bench.model))
                total = delta if total is None else total + delta
                done.append(index)
            right_after += judge.score([index])
            status[name] = status.get(name, 0) + 1
            if (index + 1) % every == 0 or index + 1 == len(requests):
                scores = judge.score(range(index + 1))
                stops.append(
                    {
                        "edits": index + 1,
                        "made": len(done),
                        "scores": [score_values(each) for each in scores],
                        "drift": judge.drift(),
                    }
                )
            bench.context.progress(index + 1, len(requests))
    means = {"right_after": mean_values(right_after), "scores": mean_values(scores)}
    beside = [] if total is None else [_beside(bench, judge, total, n) for n in range(DRAWS)]
    if beside:
        means[RANDOM] = mean_values([each for draw, _ in beside for each in draw])
    return {
        "status": status,
        "failed": failed,
        "left_out": list(judge.left_out),
        "done": done,
        "right_after": [score_values(each) for each in right_after],
        "stops": stops,
        RANDOM: [
            {"scores": [score_values(each) for each in draw], "drift": drift}
            for draw, drift in beside
        ],
        "means": means,
        "growth": {} if total is None else norm_growth(bench.model, total),
    }


def _beside(
    bench: Bench, judge: Judge, total: WeightDelta, draw: int
) -> tuple[list[RequestScore], float | None]:
    """Scores and drift by a random change with the singular values of all edits together."""
    seed = control_seed(bench.seed, judge.requests[0], draw)
    with control(total, bench.model, seed, Control.RANDOM).applied(bench.model):
        return judge.score(fluency=False), judge.drift()


# --- report --------------------------------------------------------------------------------------


def report(parts: Mapping[str, Part]) -> Report:
    """How reliability, locality and the model's text fare as edits pile up."""
    parts = {named(method): part for method, part in parts.items()}
    new: list[Claim] = []
    rest: list[Claim] = []
    said = []
    for name, part in parts.items():
        first = _rates(part["right_after"], Measure.EFFICACY)
        last = _rates(part["stops"][-1]["scores"], Measure.EFFICACY)
        of_new, of_rest = _claims(name, part)
        new, rest = [*new, of_new], [*rest, *of_rest]
        drift = number(part["stops"][-1]["drift"])
        said.append(
            f"after {_made(part['stops'][-1])} edits by {name} "
            f"{shown(100 * float(np.mean(last)), 0)} % of the new answers are said "
            f"({shown(100 * float(np.mean(first)), 0)} % right after each), perplexity is "
            f"{shown(drift, 2)} times the unedited model's"
        )
    lead = f"{'; '.join(said)}."
    lead = lead[0].upper() + lead[1:]
    tables = (_table(parts), _stops_table(parts), _every_table(parts), _growth_table(parts))
    section = Section("As edits pile up", _text(parts), tables, tuple(rest), (_figure(parts),))
    return Report(lead, (section,), tuple(new), METHOD)


def _claims(name: str, part: Part) -> tuple[Claim, list[Claim]]:
    """What is lost between an edit and the end: of the new answers, and of the rest."""
    in_the_end = part["stops"][-1]["scores"]
    (said, said_last), (kept, kept_last) = (
        [_rates(scores, measure) for scores in (part["right_after"], in_the_end)]
        for measure in (Measure.EFFICACY, Measure.LOCALITY)
    )

    def claimed(what: str, one: Sequence[float], other: Sequence[float]) -> Claim:
        return difference(what, one, other, scale=100, over="edits of one sequence")

    rest = {
        f"by {name} [more|less] of the rest is as it was right after each edit than in the end": (
            kept
        ),
        f"after all edits by {name} [less|more] of the rest is as it was than after random changes "
        "of their size": _drawn(part, Measure.LOCALITY),
    }
    new = f"by {name} a new answer is said [more|less] often right after its edit than in the end"
    return claimed(new, said, said_last), [
        claimed(what, rates, kept_last) for what, rates in rest.items() if _known(rates)
    ]


def _known(rates: Sequence[float]) -> bool:
    """Whether any of the rates is there."""
    return bool(np.isfinite(np.array(rates, dtype=float)).any())


def _text(parts: Mapping[str, Part]) -> str:
    """What could not be asked, and what could not be edited."""
    said = [unasked_text(next(iter(parts.values()))["left_out"])]
    for name, part in parts.items():
        if found := part["failed"]:
            said.append(f"{len(found)} edits by {name} cannot be made, the first: {found[0]}.")
    return " ".join(filter(None, said))


def _made(stop: Mapping[str, Any]) -> str:
    return edits_made(stop["made"], stop["edits"])


def _rates(
    scores: Sequence[Mapping[str, Any]],
    measure: str,
    scoring: str = "generation",
    side: str = "after",
) -> list[float]:
    found = [score[side].get(str(measure)) for score in scores]
    return [np.nan if each is None else number(each[scoring]) for each in found]


def _drawn(part: Part, measure: str, scoring: str = "generation") -> list[float]:
    """Rates after random changes, edit by edit: the mean over the draws; none without draws."""
    drawn = [_rates(each["scores"], measure, scoring) for each in part[RANDOM]]
    return [float(np.mean(rates)) for rates in zip(*drawn, strict=True)]


def _table(parts: Mapping[str, Part]) -> Table:
    rows: list[list[Any]] = []

    def add(about: Sequence[Any], scores: Sequence[Mapping[str, Any]], states: str) -> None:
        side = "before" if about[0] == UNEDITED else "after"
        for scoring in SCORED:
            rates = [average(_rates(scores, measure, scoring, side)) for measure in SHOWN]
            rows.append([*about, scoring, *rates, states])

    add((UNEDITED, None, ""), next(iter(parts.values()))["stops"][-1]["scores"], "")
    for name, part in parts.items():
        states = ", ".join(f"{count} {state}" for state, count in part["status"].items())
        made = _made(part["stops"][-1])
        add((name, made, "right after"), part["right_after"], states)
        add((name, made, "in the end"), part["stops"][-1]["scores"], states)
        for scoring in SCORED if part[RANDOM] else ():
            rates = [average(_drawn(part, measure, scoring)) for measure in SHOWN]
            rows.append([f"{name}, random change", None, "in the end", scoring, *rates, ""])
    columns = ("method", "edits made", "judged", "scoring", *WORDS.values(), "outcomes")
    return Table(
        "sequence",
        columns,
        rows,
        title="Judged right after each edit (published), and after all (corrected)",
        percent=set(WORDS.values()),
    )


def _stops_table(parts: Mapping[str, Part]) -> Table:
    rows = [
        [
            name,
            _made(stop),
            *(average(_rates(stop["scores"], measure)) for measure in SHOWN),
            number(stop["drift"]),
        ]
        for name, part in parts.items()
        for stop in part["stops"]
    ]
    return Table(
        "stops",
        ("method", "edits made", *WORDS.values(), "perplexity ×"),
        rows,
        title="All cases so far, in free generation, as the sequence grows",
        percent=set(WORDS.values()),
    )


def _every_table(parts: Mapping[str, Part]) -> Table:
    """Every measure in every scoring at every stop, as a file."""
    rows = [
        [name, stop["edits"], stop["made"], measure, scoring, average(rates)]
        for name, part in parts.items()
        for stop in part["stops"]
        for measure in dict.fromkeys(each for one in stop["scores"] for each in one["after"])
        for scoring in SCORINGS
        if _known(rates := _rates(stop["scores"], measure, scoring))
    ]
    columns = ("method", "edits", "made", "measure", "scoring", "rate")
    return Table("every_measure", columns, rows, stored_only=True)


def _growth_table(parts: Mapping[str, Part]) -> Table:
    rows = [
        [name, weight, number(size["change"]), number(size["growth"])]
        for name, part in parts.items()
        for weight, size in part["growth"].items()
    ]
    columns = ("method", "weight", "|dW|/|W|", "|W + dW|/|W|")
    return Table("growth", columns, rows, title="Growth of the changed weights")


def _figure(parts: Mapping[str, Part]) -> Figure:
    stops = [stop["edits"] for stop in next(iter(parts.values()))["stops"]]
    panels = {
        words: {
            name: [average(_rates(stop["scores"], measure)) for stop in part["stops"]]
            for name, part in parts.items()
        }
        for measure, words in ((Measure.EFFICACY, "reliability"), (Measure.LOCALITY, "locality"))
    }
    chart = Lines(stops, panels, "edits", ("share of replies",), y_limits=(-0.02, 1.02))
    caption = "All cases so far, judged in free generation, with 95 % intervals over cases."
    return Figure("sequence", caption, chart.draw)


LIFELONG = Benchmark(
    name="lifelong",
    title="Edits in sequence",
    question="Are edits still there, and is the model still itself, after many in sequence?",
    published="any file of single edits: CounterFact, ZsRE, KnowEdit, QAEdit",
    licence="that of the file",
    form="as counterfact, zsre, knowedit and qaedit; --set every=N judges after every N edits",
    fixture="counterfact.json",
    methods=("rome", "memit", "alphaedit", "ft"),
    read=single_edits,
    compute=compute,
    report=report,
    edit_of=edit_or(),
    settings=Settings,
    whole=True,
    truths=attrgetter("truths"),
    version=5,
)
