"""KnowUnDo and TOFU: sets of questions and answers are unlearned, and scored before and after.

A unit is one method on all rows. Each domain's forget set is unlearned by itself, while its retain
set is kept; a random change with the method's singular values stands beside what the method did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from circuits.base.choices import Control, UnlearnMethod
from circuits.base.errors import PromptError
from circuits.base.options import Options, option
from circuits.edits.effects.control import control
from circuits.edits.methods.unlearn import unlearn
from circuits.facts.loaders import LeftOut
from experiments.analyses.engine.base import Part
from experiments.benchmarks.base import NO_EDIT, Bench, Benchmark
from experiments.benchmarks.knowledge import Truth
from experiments.benchmarks.unlearning.cases import (
    AUTHORS,
    FORGET,
    FORGET_VAL,
    RETAIN,
    RETAIN_VAL,
    TOFU_FORGET,
    TOFU_RETAIN,
    WORLD,
    Row,
    read_know_un_do,
    read_tofu,
)
from experiments.benchmarks.unlearning.circuits import neither_circuits
from experiments.benchmarks.unlearning.measures import Scored
from experiments.benchmarks.unlearning.report import know_un_do_report, tofu_report
from experiments.benchmarks.unlearning.scoring import NEITHER, neither, scored, scored_sets, usable

METHODS = (NO_EDIT, *map(str, UnlearnMethod))
Scores = Mapping[str, Scored]


@dataclass(frozen=True)
class Settings(Options):
    """Settings of both benchmarks.

    `neither` is how many known facts of neither set are scored. `retain_model` names a model that
    never saw TOFU's forget set; without it forget quality is not computed.
    """

    neither: int = option(60, "known facts of neither set that are scored", low=0)
    retain_model: str | None = option(None, "a model that was trained without the forget set")


def edit_of(method: str) -> None:
    """None, as unlearning is no editing; OptionError for a method that there is not."""
    if method != NO_EDIT:
        UnlearnMethod.of(method)


def to_forget(row: Row) -> list[Truth]:
    """A row that is to be forgotten, with its answer."""
    return [(row.question, (row.answer,))] if row.split in (FORGET, TOFU_FORGET) else []


def know_un_do(bench: Bench, rows: tuple[Row, ...], method: str) -> Part:
    """One method on KnowUnDo's domains."""
    return _by_domain(bench, rows, method, (FORGET, RETAIN), (FORGET, FORGET_VAL, RETAIN_VAL))


def tofu(bench: Bench, rows: tuple[Row, ...], method: str) -> Part:
    """One method on TOFU, with the retain-only model's scores of the forget set where named."""
    kept = TOFU_FORGET, TOFU_RETAIN
    found = _by_domain(bench, rows, method, kept, (*kept, AUTHORS, WORLD))
    name = bench.settings.retain_model
    if name is None:
        return {**found, "retain_model": None}
    forget = [each for each in rows if each.split == TOFU_FORGET]

    def retained() -> dict[str, Any]:
        other = bench.context.load(name)
        found, left_out = usable(other, forget)
        if not found:
            reason = f": {left_out[0].reason}" if left_out else ""
            raise PromptError(f"{name} can use no row of {TOFU_FORGET}{reason}")
        return asdict(scored(other, found, bench.batch_size))

    return {**found, "retain_model": {"name": name, **bench.once(("retain", name), retained)}}


def _by_domain(
    bench: Bench,
    rows: Sequence[Row],
    method: str,
    trained: tuple[str, str],
    shown: Sequence[str],
) -> dict[str, Any]:
    """Each domain by its name; `trained` are its forget and retain sets, `shown` those scored."""
    edit_of(method)
    count = bench.settings.neither
    domains: dict[str, Any] = {}
    for domain in dict.fromkeys(each.domain for each in rows):
        own = [each for each in rows if each.domain == domain]
        sets = bench.once(("sets", domain), partial(_prepared, bench, own, count))
        domains[domain] = {
            **_unlearned(bench, domain, sets, method, trained, shown),
            "neither": sets.neither,
            "left_out": [asdict(each) for each in sets.left_out],
        }
    return {"domains": domains}


@dataclass(frozen=True)
class _Sets:
    """A domain's usable rows by set, facts of neither among them."""

    rows: Mapping[str, Sequence[Row]]
    left_out: Sequence[LeftOut]
    neither: Mapping[str, int]


def _prepared(bench: Bench, rows: Sequence[Row], count: int) -> _Sets:
    found, left_out = usable(bench.model, rows)
    others = neither(
        bench.model,
        bench.context.relations,
        rows,
        count,
        batch_size=bench.batch_size,
        seed=bench.seed,
    )
    by_split: dict[str, list[Row]] = {}
    for each in (*found, *others.rows):
        by_split.setdefault(each.split, []).append(each)
    return _Sets(by_split, left_out, others.record())


def _unlearned(
    bench: Bench,
    domain: str,
    sets: _Sets,
    method: str,
    trained: tuple[str, str],
    shown: Sequence[str],
) -> dict[str, Any]:
    """One method on one domain: status, and the scores by side and set."""
    forget, retain = (sets.rows.get(name, ()) for name in trained)
    for name, part in zip(trained, (forget, retain), strict=True):
        if not part:
            reason = f": {sets.left_out[0].reason}" if sets.left_out else ""
            raise PromptError(f"{domain}: the model can use no row of {name}{reason}")
    watched = {name: sets.rows[name] for name in (*shown, NEITHER) if sets.rows.get(name)}
    score: Callable[[], Scores] = partial(scored_sets, bench.model, watched, bench.batch_size)
    before = bench.once(("before", domain), score)
    result: dict[str, Any] = {"status": NO_EDIT, "reason": "", "before": _plain(before)}
    if method == NO_EDIT:
        return result
    outcome = unlearn(
        bench.model,
        [each.example for each in forget],
        [each.example for each in retain],
        method,
        seed=bench.seed,
    )
    result |= {
        "status": str(outcome.status),
        "reason": outcome.reason,
        "seconds": outcome.details["seconds"],
        "settings": outcome.provenance["settings"],
        "settings_origin": outcome.provenance["settings_origin"],
    }
    if outcome.delta is None:
        return result
    with outcome.delta.applied(bench.model):
        result["after"] = _plain(score())
    if bench.config.circuits and watched.get(NEITHER):
        result["circuits"] = neither_circuits(bench, watched[NEITHER], outcome.delta)
    random = control(outcome.delta, bench.model, bench.seed, Control.RANDOM)
    with random.applied(bench.model):
        result["control"] = _plain(score())
    return {**result, "norm": outcome.delta.norm()}


def _plain(scores: Scores) -> dict[str, Any]:
    return {name: asdict(each) for name, each in scores.items()}


KNOW_UN_DO = Benchmark(
    name="knowundo",
    title="KnowUnDo: what is unlearned and what is kept",
    question="Is what is to be forgotten forgotten in questions that no method saw, and is what "
    "lies close to it kept?",
    published="Tian et al. 2024, arXiv:2407.01920; github.com/zjunlp/KnowUnDo (privacy and "
    "copyright), also on the hub as zjunlp/KnowUnDo",
    licence="MIT",
    form="a folder with unlearn_train.json, unlearn_val.json, retention_train.json and "
    "retention_val.json (rows {text, labels}), a folder of such folders, or one JSON file with "
    "lists under these names",
    fixture="knowundo",
    methods=METHODS,
    read=read_know_un_do,
    compute=know_un_do,
    report=know_un_do_report,
    edit_of=edit_of,
    settings=Settings,
    finds_circuits=True,
    whole=True,
    set_of=attrgetter("domain", "split"),
    truths=to_forget,
    version=2,
)
TOFU = Benchmark(
    name="tofu",
    title="TOFU: forget quality and model utility",
    question="Does the unlearned model answer as one that never saw the forget set, and is it as "
    "useful as before?",
    published="Maini et al. 2024, arXiv:2401.06121; locuslab/TOFU on the hub",
    licence="MIT",
    form="a folder with forget10.json, retain90.json, their _perturbed files, real_authors.json "
    "and world_facts.json as far as present (rows {question, answer, paraphrased_answer, "
    "perturbed_answer}), as JSON lists or JSON lines, or one JSON file with lists under such names",
    fixture="tofu",
    methods=METHODS,
    read=read_tofu,
    compute=tofu,
    report=tofu_report,
    edit_of=edit_of,
    settings=Settings,
    finds_circuits=True,
    whole=True,
    set_of=attrgetter("domain", "split"),
    truths=to_forget,
    version=2,
)
