"""A sweep from its spec to stored units: plan, leave out what is there, run the rest, tell."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from circuits.base.errors import StoreError
from circuits.base.origin import check_writable
from circuits.base.progress import lasting
from circuits.base.stamps import stamped
from circuits.base.writing import save_json, to_json
from circuits.files.sweep import counted, nothing_in
from circuits.files.units import Store
from experiments.analyses.engine.parts import Shard
from experiments.executors.base import Executing, Outcome, Status
from experiments.executors.execute import execute
from experiments.sweeps.plan import UnitJob, planned
from experiments.sweeps.runs import RunJob, folder_of
from experiments.sweeps.spec import Spec, Work


@dataclass(frozen=True)
class Plan:
    """The units of a sweep, and which of them are not stored yet.

    `runs` are analyses and benchmarks, `due` those that are to be done: each finds out by itself
    which of its own units are stored.
    """

    folder: Path
    jobs: tuple[UnitJob, ...]
    missing: tuple[UnitJob, ...]
    runs: tuple[Work, ...]
    due: tuple[Work, ...]
    shard: Shard

    @property
    def groups(self) -> dict[tuple[str, str], tuple[int, int]]:
        """By verb and model: units in all, and those that are missing."""
        every = Counter((job.work.verb, job.work.model.name) for job in self.jobs)
        left = Counter((job.work.verb, job.work.model.name) for job in self.missing)
        return {group: (count, left[group]) for group, count in every.items()}

    def estimate(self, workers: int = 1) -> float | None:
        """Seconds that the missing units take, from those that were done here; None without.

        Where none was done on a model, those of the verb on other models stand in.
        """
        known = mean_seconds(Store(self.folder))
        left = Counter((job.work.verb, job.work.model.name) for job in self.missing)
        total = 0.0
        for (verb, model), count in left.items():
            alike = [each for (other, _), each in known.items() if other == verb]
            if not alike:
                return None
            total += count * known.get((verb, model), sum(alike) / len(alike))
        return total / workers


def plan(spec: Spec, folder: Path, shard: Shard = Shard()) -> Plan:
    """The units of a spec, of the verbs' a shard's as far as they are not stored whole."""
    jobs = planned(spec.works, folder)
    stored = Store(folder).whole()
    missing = [job for index, job in enumerate(jobs) if shard.has(index) and job.key not in stored]
    return Plan(folder, tuple(jobs), tuple(missing), spec.runs, spec.runs, shard)


@dataclass
class Told:
    """How far a run is."""

    total: int
    start: float = field(default_factory=time.monotonic)
    counts: Counter[Status] = field(default_factory=Counter)
    left_out: int = 0
    by_model: dict[str, Counter[Status]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def done(self) -> int:
        """Units that are done; of `left_out` of them there was nothing to be found."""
        return self.counts[Status.DONE]

    @property
    def ended(self) -> int:
        """Units that are done or have failed."""
        return sum(self.counts.values())

    def line(self) -> str:
        """Done, failed, rate and time left, and how much of each model."""
        seconds = time.monotonic() - self.start
        rate = self.ended / seconds if seconds > 0 else 0.0
        left = (self.total - self.ended) / rate if rate else float("nan")
        failed = self.ended - self.done
        models = ", ".join(f"{name} {sum(each.values())}" for name, each in self.by_model.items())
        return (
            f"{self.done} of {self.total} done{nothing_in(self.left_out)}, {failed} failed, "
            f"{60 * rate:.1f} a minute, {lasting(left)} left ({models})"
        )


Tell = Callable[[dict[str, Any], Told], Any]


def run(
    plan: Plan,
    how: Executing,
    tell: Tell = lambda event, told: None,
    note: Callable[[str], Any] = lambda text: None,
) -> Told:
    """Run what is missing; failures are recorded in the folder and in what is returned.

    Analyses and benchmarks come last, one after the other. StoreError, with everything that is
    stored left whole, where the disk takes no more.
    """
    store = Store(plan.folder)
    check_writable(plan.folder)
    told = Told(len(plan.missing) + len(plan.due))
    runs = [RunJob(work, plan.folder, how, plan.shard, note) for work in plan.due]
    _store_plan(plan)
    log, file = store.new_log()
    with file:

        def report(job: UnitJob | RunJob, outcome: Outcome) -> None:
            event = _event(job, outcome)
            told.counts[outcome.status] += 1
            told.left_out += outcome.status == Status.DONE and bool(outcome.reason)
            told.by_model[job.work.model.name][outcome.status] += 1
            if outcome.status == Status.DONE:
                store.forgive(job.key)
            else:
                work = job.work
                what = {"dtype": work.model.dtype, "settings": dict(work.settings)}
                store.fail(job.key, {**event, **what, "trace": outcome.trace})
            try:
                file.write(to_json(stamped("sweep-event", {"event": "unit", **event})) + "\n")
                file.flush()
            except OSError as error:
                raise StoreError(f"{log}: cannot be written: {error.strerror}") from None
            tell(event, told)

        def report_run(outcome: Outcome) -> None:
            job = runs[outcome.index]
            if job.waits:
                note(job.waits)
            else:
                report(job, outcome)

        execute(plan.missing, how, lambda outcome: report(plan.missing[outcome.index], outcome))
        execute(runs, Executing(), report_run)
    return told


def _event(job: UnitJob | RunJob, outcome: Outcome) -> dict[str, Any]:
    """What is told of a unit's end; of a run with the seconds of all its units and its report."""
    more: dict[str, Any] = {}
    if isinstance(job, RunJob) and job.made is not None:
        seconds = round(sum(job.made.parts.seconds.values()), 3)
        more = {"seconds": seconds, "report": str(job.made.path)}
    return {
        "key": job.key,
        "unit": job.label,
        "verb": job.work.verb,
        "model": job.work.model.name,
        "status": str(outcome.status),
        "seconds": outcome.seconds,
        "reason": outcome.reason,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def _store_plan(plan: Plan) -> None:
    units = [[job.key, job.work.verb, job.work.model.name, job.label] for job in plan.jobs]
    for work in plan.runs:
        name = folder_of(work, plan.folder).name
        units.append([name, work.verb, work.model.name, work.label])
    name = sha256(to_json(units).encode()).hexdigest()[:16]
    path = plan.folder / "plans" / f"{name}.json"
    if not path.exists():
        save_json(stamped("sweep-plan", {"units": units}), path)


def mean_seconds(store: Store) -> dict[tuple[str, str], float]:
    """How long a unit took, by verb and model, over all that were done."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in store.logged():
        if line.get("status") == Status.DONE:
            sums[str(line.get("verb")), str(line.get("model"))].append(float(line["seconds"]))
    return {group: sum(each) / len(each) for group, each in sums.items()}


def left_out(store: Store) -> set[str]:
    """Keys of units that were done and of which there was nothing to be found, by the logs."""
    reasons: dict[str, str] = {}
    for line in store.logged():
        if line.get("status") == Status.DONE:
            reasons[str(line.get("key"))] = str(line.get("reason") or "")
    return {key for key, reason in reasons.items() if reason}


def status(folder: Path) -> dict[str, Any]:
    """How far a sweep is, by model and verb: units planned, stored, failed, seconds a unit.

    An analysis or a benchmark counts as one unit, which is done once it has its report.
    """
    store = Store(folder)
    units = store.planned()
    stored = {*store.keys(), *store.reports()}
    errors = store.errors()
    seconds = mean_seconds(store)
    rows = counted(units, stored, set(errors), left_out(store))
    for (model, verb), row in rows.items():
        row["seconds"] = seconds.get((verb, model))
    found: dict[str, Any] = {
        "folder": str(folder),
        "units": [{"model": m, "verb": v, **row} for (m, v), row in rows.items()],
        "failures": [
            {"unit": each.get("unit", key), "status": each.get("status"), "reason": each["reason"]}
            for key, each in errors.items()
            if key not in stored
        ],
    }
    return stamped("sweep-status", found, _how_far(found["units"]))


def _how_far(rows: Sequence[Mapping[str, Any]]) -> str:
    """Units done of all planned, and how long the rest takes at the pace of those."""
    planned, done, failed, empty = (
        sum(row[name] for row in rows) for name in ("planned", "done", "failed", "left_out")
    )
    if not planned:
        return "No unit is planned."
    text = (
        f"{done:,} of {planned:,} units are done ({100 * done / planned:.1f} %)"
        f"{nothing_in(empty)}, {failed:,} failed"
    )
    left = [(row["planned"] - row["done"], row["seconds"]) for row in rows]
    if not any(n for n, _ in left):
        return f"{text}."
    if any(n and seconds is None for n, seconds in left):
        return f"{text}; how long the rest takes is not known yet."
    seconds = sum(n * (seconds or 0) for n, seconds in left)
    return f"{text}; the rest takes about {lasting(seconds)}, one at a time."


def groups_text(groups: Mapping[tuple[str, str], tuple[int, int]]) -> Sequence[tuple[str, ...]]:
    """A plan's groups as rows of a table."""
    return [(verb, model, str(n), str(left)) for (verb, model), (n, left) in groups.items()]
