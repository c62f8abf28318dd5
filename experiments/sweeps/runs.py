"""Analyses and benchmarks as entries of a sweep: their own units, by the sweep's executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from circuits.base.choices import Known, Templates
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.options import build
from circuits.base.sizes import bytes_of
from circuits.base.writing import to_json
from circuits.files.units import RUNS
from experiments.analyses.engine.base import Analysis, Run, check_asked, check_bound
from experiments.analyses.engine.context import Context, safe
from experiments.analyses.engine.jobs import Find, spread
from experiments.analyses.engine.parts import Shard, UnfinishedError
from experiments.analyses.engine.running import run_analysis
from experiments.executors.base import Executing, Job, Workplace
from experiments.sweeps.spec import Work
from experiments.sweeps.verbs import PARTS

_ASKED = ("seed", "batch_size", "memory")
ASKED = {"run": (*_ASKED, "known", "shots", "templates", "facts"), "benchmark": _ASKED}
"""Settings of a run, by its verb, that are not options of what is run."""
OWN = {"run": (), "benchmark": ("data", "methods", "limit", "circuits", "strict")}
"""Options by the verb; those of an analysis or a benchmark stand under `set`."""


class _Made(NamedTuple):
    """The analysis, its options, how another process finds it, and what is told of its data."""

    analysis: Analysis
    config: Any
    find: Find
    where: Any
    told: tuple[str, ...] = ()


@dataclass(eq=False)
class RunJob(Job):
    """An analysis or a benchmark as a whole, in this process; the executor has its units.

    `made` is the run once its report is there, `waits` why there is none yet: no failure.
    """

    work: Work
    folder: Path
    how: Executing
    shard: Shard
    note: Callable[[str], Any]
    made: Run | None = None
    waits: str = ""

    @property
    def label(self) -> str:
        """What progress calls it."""
        return self.work.label

    @property
    def key(self) -> str:
        """What tells it from other runs: the name of its folder."""
        return folder_of(self.work, self.folder).name

    def run(self, place: Workplace) -> str | None:
        """Do it and write its report."""
        try:
            self.made = run_one(self.work, self.folder, self.how, self.note, self.shard)
        except UnfinishedError as error:
            self.waits = str(error)
        return None


def folder_of(work: Work, folder: Path) -> Path:
    """Where a run's results are, by its model and all of its settings."""
    name = str(work.settings[PARTS[work.verb]])
    decisive = [work.model.name, work.model.dtype, dict(work.settings)]
    mark = sha256(to_json(decisive).encode()).hexdigest()[:8]
    return folder / RUNS / safe(f"{Path(work.model.name).name}-{name}-{mark}")


def run_one(
    work: Work,
    folder: Path,
    how: Executing,
    note: Callable[[str], Any] = lambda text: None,
    shard: Shard = Shard(),
) -> Run:
    """The analysis or benchmark, run and reported; what it raises is as of `kc run`."""
    made = _made(work)
    for text in made.told:
        note(text)
    context = _context(work, folder)
    elsewhere = spread(made.find, made.where, made.config, context, how, note)
    return run_analysis(
        made.analysis, made.config, context, note=note, shard=shard, spread=elsewhere
    )


def check(work: Work) -> None:
    """OptionError for a run that there is none of, or an option that it does not have.

    It is one too for data of which a row cannot be used, where the run is `strict`.
    """
    made = _made(work)
    check_bound(_bound(work), (made.analysis, made.config))
    check_asked(_context(work, Path()), made.analysis)


def _context(work: Work, folder: Path) -> Context:
    """The run's surroundings; the model is loaded when it is first asked for."""
    asked = {name: work.settings[name] for name in ASKED[work.verb] if name in work.settings}
    for name, kind in (("known", Known), ("templates", Templates)):
        if name in asked:
            asked[name] = kind.of(asked[name], name)
    asked["memory"] = _bound(work)
    return Context(
        work.model.name,
        folder_of(work, folder),
        device=work.model.device,
        dtype=work.model.dtype,
        device_map=work.model.device_map,
        **asked,
    )


def _bound(work: Work) -> int | None:
    """The bound on memory that a sweep names, in bytes."""
    asked = work.settings.get("memory")
    return None if asked is None else bytes_of("memory", asked)


def _made(work: Work) -> _Made:
    given = dict(work.settings)
    name = str(given.pop(PARTS[work.verb]))
    settings = given.pop("set", {}) or {}
    if not isinstance(settings, Mapping):
        raise OptionError("`set` is a mapping of options and values")
    given = {key: value for key, value in given.items() if key not in ASKED[work.verb]}
    if unknown := [key for key in given if key not in OWN[work.verb]]:
        raise OptionError(f"{work.verb} {name} has no {unknown[0]!r:.40}; options go under `set`")
    if work.verb == "run":
        from experiments.analyses.engine.registry import analysis

        chosen = analysis(name)
        return _Made(chosen, build(chosen.config, settings, name), analysis, name)
    return _benchmark(name, given, settings)


def _benchmark(name: str, given: Mapping[str, Any], settings: Mapping[str, Any]) -> _Made:
    from experiments.benchmarks.base import Config, as_analysis, decided
    from experiments.benchmarks.registry import benchmark, stored_benchmark

    chosen = benchmark(name)
    path = Path(given["data"]).expanduser() if given.get("data") else chosen.own_data
    if not path.exists():
        raise FileFormatError(path, "no such file or folder")
    own = {key: value for key, value in given.items() if key in ("limit", "circuits")}
    if given.get("data"):
        own["data"] = str(given["data"])
    config = build(
        Config,
        {
            **own,
            "methods": given.get("methods") or chosen.methods,
            "settings": [f"{key}={to_json(value)}" for key, value in settings.items()],
        },
        name,
    )
    chosen.refuse(config)
    config = decided(chosen, config, path)
    cases = chosen.read(path)
    if given.get("strict"):
        cases = cases.without_slips()
    told = tuple(f"{name}: {text} ({path})" for text in cases.told())
    where = (name, str(path.absolute()))
    return _Made(as_analysis(chosen, cases), config, stored_benchmark, where, told)
