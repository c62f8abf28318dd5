"""One case by one method: its edit, a random change beside it, or no edit at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuits.base.choices import Control
from circuits.base.errors import PromptError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.control import control, control_seed
from circuits.edits.judge.generation import says
from circuits.edits.judge.in_context import in_context
from circuits.edits.judge.success import Judge, RequestScore, TextDrift
from circuits.edits.methods.registry import EditMethod
from experiments.analyses.edit_study.stored import mean_values, score_values
from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT, Bench
from experiments.benchmarks.circuits.rewired import rewired_by
from experiments.benchmarks.editing.cases import Case
from locate.edit import Editor, EditRun, Mode, run_edits, texts_for_drift

FLUENCY_TOKENS = (100, 60)
"""Lengths of the text that fluency is measured on, the published one first; the first of which the
model takes twice as many, as as many are sampled after the prompt."""
RANDOM = "random"
"""Where a unit keeps what a random change of the edit's size did."""


def compute(bench: Bench, case: Case, method: str) -> dict[str, Any]:
    """The case's scores after the method, and after a random change of the same size.

    Every request has scores: without its edit those of the model as it is (`EditRun.final`). `made`
    counts the requests whose edit was made; side effects are absent where there is none. `means`
    has the rates over the requests. `known` says of each request whether the unedited model gives
    the true answer, as far as the file has one.
    """
    judge = judge_of(bench, case.requests)
    if method == NO_EDIT:
        return {**_told(judge, judge.scores_of(judge.observed_before)), "status": {}}
    if method == IN_CONTEXT:
        scores, left_out = in_context(judge)
        every = list(dict.fromkeys((*judge.left_out, *left_out)))
        return {**_told(judge, scores), "left_out": every, "status": {}}
    run = run_edits(editor_of(bench, method), judge, mode_of(case.requests, method))
    changes = {
        **_told(judge, run.final),
        "made": len(run.made),
        "status": run.counts(),
        "notes": run.notes,
        "seconds": sum(run.seconds),
    }
    if not run.made:  # a change of no size has a random one of no size beside it
        same = changes["means"]["scores"]
        return {**changes, RANDOM: changes["scores"], "means": {"scores": same, RANDOM: same}}
    delta = _whole(run)
    beside = _beside(bench, judge, delta)
    return {
        **changes,
        "means": {**changes["means"], RANDOM: mean_values(beside)},
        "circuit": _circuit(bench, case, delta) if bench.config.circuits else None,
        "drift": run.drifts[-1],
        "growth": run.growth[-1],
        RANDOM: [score_values(each) for each in beside],
    }


def fluency_length(max_tokens: int) -> int:
    """Tokens of the text that fluency is measured on; 0 where the model has no room for any."""
    return next((each for each in FLUENCY_TOKENS if max_tokens >= 2 * each), 0)


def judge_of(
    bench: Bench, requests: Sequence[EditRequest], *, fluency: bool = True, lenient: bool = False
) -> Judge:
    """The judge of some requests, made once a run; all share the texts' perplexity before."""
    key = ("judge", tuple(requests), fluency, lenient)
    return bench.once(  # type: ignore[no-any-return]
        key,
        lambda: Judge(
            bench.model,
            requests,
            batch_size=bench.batch_size,
            fluency_tokens=fluency_length(bench.model.max_tokens) if fluency else 0,
            texts=bench.once("drift", lambda: _drift(bench)),
            seed=bench.seed,
            lenient=lenient,
        ),
    )


def _drift(bench: Bench) -> TextDrift:
    return TextDrift(bench.model, texts_for_drift(bench.model, None), bench.batch_size)


def editor_of(bench: Bench, method: str) -> Editor:
    """The method with its second moments, made once a run."""
    return bench.once(  # type: ignore[no-any-return]
        ("editor", method),
        lambda: Editor(bench.model, method, seed=bench.seed, everyone=_everyone(bench)),
    )


def mode_of(requests: Sequence[EditRequest], method: str) -> Mode:
    """Several requests: one after the other where the method takes one at a time."""
    one_at_a_time = EditMethod.of(method).one_request and len(requests) > 1
    return Mode.SEQUENTIAL if one_at_a_time else Mode.TOGETHER


def _told(judge: Judge, scores: Sequence[RequestScore]) -> dict[str, Any]:
    return {
        "prompts": [each.text for each in judge.requests],
        "targets": [each.target for each in judge.requests],
        "known": [_known(judge, index) for index in range(len(judge.requests))],
        "scores": [score_values(each) for each in scores],
        "means": {"scores": mean_values(scores)},
        "left_out": list(judge.left_out),
        "fluency_tokens": judge.fluency_tokens,
    }


def _known(judge: Judge, index: int) -> bool | None:
    truth = judge.requests[index].ground_truth
    if truth is None:
        return None
    return says(judge.observed_before[index][0].text, truth)


def _whole(run: EditRun) -> WeightDelta:
    """The case's change; PromptError where its edits do not add up to one."""
    delta = run.delta or (run.deltas[0] if len(run.deltas) == 1 else None)
    if delta is None:
        raise PromptError("the edits do not add up to one change")
    return delta


def _beside(bench: Bench, judge: Judge, delta: WeightDelta) -> list[RequestScore]:
    """The scores with a random change of the edit's singular values at the same weights.

    Its fluency is in no report, and is not sampled.
    """
    seed = control_seed(bench.seed, judge.requests[0])
    with control(delta, bench.model, seed, Control.RANDOM).applied(bench.model):
        return judge.score(fluency=False)


def _circuit(bench: Bench, case: Case, delta: WeightDelta) -> dict[str, Any]:
    return rewired_by(bench, case.requests[0], delta, _everyone(bench))


def _everyone(bench: Bench) -> list[EditRequest]:
    return [request for each in bench.cases for request in each.requests]
