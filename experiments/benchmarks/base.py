"""What a benchmark is: cases that are read from a file, and what a method does to each of them.

A benchmark runs on the engine of the analyses: a unit is one case by one method (or, where cases
belong together, all of them by one method), stored when it is done; a case that fails is recorded
with its reason and the rest goes on; the report is made of stored units.

One file adds one: a value `Benchmark`, entered in `registry.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from circuits.base.choosing import Open
from circuits.base.content import content_sha256
from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.base.options import Options, build, option, parse_settings
from circuits.edits.judge.generation import Speaker
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import share_moments
from circuits.facts.loaders import LeftOut
from circuits.model.model import Model
from experiments.analyses.engine.base import Analysis, Part, Report, SkipError
from experiments.analyses.engine.context import Context
from experiments.benchmarks.knowledge import Truth, knowledge

FIXTURES = Path(__file__).with_name("fixtures")
"""Small benign files of our own in the benchmarks' schemas."""
NO_EDIT = "none"
"""The baseline that changes nothing."""
IN_CONTEXT = "in-context"
"""The baseline that says the edit before the question."""


@dataclass(frozen=True)
class Cases:
    """What was read: cases in the file's order, and with reasons the rows that were left out and
    the prompts of others that ask nothing.
    """

    items: tuple[Any, ...]
    left_out: tuple[LeftOut, ...] = ()
    empty_probes: tuple[LeftOut, ...] = ()

    def told(self) -> tuple[str, ...]:
        """How many rows, and prompts of others, cannot be used, and why the first; if any."""
        kinds = (
            ("rows cannot be used, the first is row", self.left_out),
            ("prompts of the other rows cannot be asked, the first is in row", self.empty_probes),
        )
        return tuple(
            f"{len(found)} {words} {found[0].row}: {found[0].reason}"
            for words, found in kinds
            if found
        )

    def without_slips(self) -> Cases:
        """The same; OptionError, with the first reason, where something cannot be used."""
        for text in self.told():
            raise OptionError(text)
        return self


@dataclass(frozen=True)
class NoSettings(Options):
    """Of a benchmark that has none."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the literature.

    `published` says where its data is, `licence` under which terms, `form` how a file of it is
    read. `fixture` is our own small file in that form. `read` gives the cases of a file or folder.
    `compute(bench, case, method)` gives one unit's values, as plain as `circuits.base.plain` makes
    them; with `whole` the case is the tuple of all cases. `report(parts)` makes the page of the
    units' values by key; each holds its `method`. `edit_of(method)` is the way of editing that
    a method's name stands for, None for a baseline; it refuses an unknown name.
    `settings` are the options of its own (`--set`); `finds_circuits` says whether it can look at
    the circuits of its cases. `set_of(case)` is given where cases belong to sets that are needed
    together, as what is forgotten and what is retained: a limit is then of cases a set. `beside`
    is a pattern of files in the folder of a data file that are read with it. `truths(case)` are
    prompts with what is true before any change, which the model is asked before there is one.
    """

    name: str
    title: str
    question: str
    published: str
    licence: str
    form: str
    fixture: str
    methods: tuple[str, ...]
    read: Callable[[Path], Cases]
    compute: Callable[[Bench, Any, str], Part]
    report: Callable[[Mapping[str, Part]], Report]
    edit_of: Callable[[str], EditMethod | None]
    settings: type[Options] = NoSettings
    finds_circuits: bool = False
    whole: bool = False
    set_of: Callable[[Any], Any] | None = None
    beside: str = ""
    truths: Callable[[Any], Sequence[Truth]] | None = None
    version: int = 1

    @property
    def own_data(self) -> Path:
        """The fixture's path."""
        return FIXTURES / self.fixture

    def settings_of(self, config: Config) -> Any:
        """The benchmark's own options; OptionError for one that it does not have."""
        return build(self.settings, parse_settings(config.settings), self.name)

    def edits_of(self, config: Config) -> list[EditMethod]:
        """The ways of editing that were asked for, without baselines; OptionError as `edit_of`."""
        return [found for each in config.methods if (found := self.edit_of(each))]

    def refuse(self, config: Config) -> None:
        """OptionError for a method, a setting or a wish that the benchmark cannot serve."""
        self.edits_of(config)
        self.settings_of(config)
        if config.circuits and not self.finds_circuits:
            raise OptionError(f"{self.name} does not look at circuits; leave `circuits` out")


@dataclass(frozen=True)
class Config(Options):
    """Options of a benchmark's run.

    `data_sha256` is of the files that the cases are from, `own_sha256` of what else decides a unit
    and may change under its name: functions of the user's own, and files that settings name.
    """

    methods: tuple[str, ...] = option((), "methods", selects=True)
    limit: int | None = option(
        None, "cases (of a set), drawn by the seed; none given: all", low=1, selects=True
    )
    data: str = option("cases of our own, no published data", "where cases are from", selects=True)
    data_sha256: str = option("", "the data's hash")
    own_sha256: str = option("", "hash of the user's own functions and files that settings name")
    settings: tuple[str, ...] = option((), "options of the benchmark, NAME=VALUE")
    circuits: bool = option(False, "the circuit of each case before and after its edit")


@dataclass(frozen=True, eq=False)
class Bench:
    """A run's surroundings as a benchmark sees them.

    `settings` is a value of the benchmark's own class, `cases` are all that the file has.
    """

    context: Context
    config: Config
    settings: Any = None
    cases: Sequence[Any] = ()

    @property
    def model(self) -> Model:
        """The model, unchanged between units."""
        return self.context.model

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.context.seed

    @property
    def batch_size(self) -> int:
        """How many prompts are run at once."""
        return self.context.batch_size

    @property
    def speaker(self) -> Speaker:
        """Asks the model as it is at the time, made once a run."""
        return self.once("speaker", lambda: Speaker(self.model, self.batch_size))  # type: ignore[no-any-return]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What several units need, made when first asked for."""
        return self.context.once(("benchmark", key), make)


def as_analysis(benchmark: Benchmark, cases: Cases) -> Analysis:
    """The benchmark on these cases, as the engine runs it. PromptError where there is no case."""
    if not cases.items:
        raise PromptError(f"{benchmark.name}: there is no case to run")

    def chosen(context: Context, config: Config) -> list[int]:
        sets: dict[Any, list[int]] = {}
        for row, case in enumerate(cases.items):
            sets.setdefault(benchmark.set_of and benchmark.set_of(case), []).append(row)
        limit = config.limit or len(cases.items)
        found = [_drawn(rows, limit, name, context.seed) for name, rows in sets.items()]
        return sorted(row for rows in found for row in rows)

    def steps(context: Context, config: Config) -> Sequence[str]:
        benchmark.refuse(config)
        if benchmark.whole:
            return list(config.methods)
        return [f"{m} {row + 1}" for m in config.methods for row in chosen(context, config)]

    def compute(context: Context, config: Config, key: str) -> Part:
        bench = Bench(context, config, benchmark.settings_of(config), cases.items)
        try:
            if benchmark.whole:
                items = tuple(cases.items[row] for row in chosen(context, config))
                return {"method": key, **benchmark.compute(bench, items, key)}
            method, _, row = key.rpartition(" ")
            case = cases.items[int(row) - 1]
            return {"method": method, "case": int(row), **benchmark.compute(bench, case, method)}
        except (NumericalError, OptionError) as error:
            raise SkipError(str(error)) from None

    def prepare(context: Context, config: Config) -> str | None:
        """Second moments are collected once, before the units; what the model knows is told."""
        if edits := benchmark.edits_of(config):
            share_moments(context.model, edits, progress=context.progress)
        if benchmark.truths is None or set(config.methods) <= {NO_EDIT, IN_CONTEXT}:
            return None
        bench = Bench(context, config)
        truths = [
            truth for row in chosen(context, config) for truth in benchmark.truths(cases.items[row])
        ]
        told = knowledge(bench.model, bench.speaker, truths, context.seed)
        return f"{benchmark.name}: {told}" if told else None

    def report(config: Config, parts: Mapping[str, Part]) -> Report:
        found = benchmark.report(parts)
        return replace(found, method=(*found.method, *cases.told()))

    return Analysis(
        name=f"benchmark-{benchmark.name}",
        title=benchmark.title,
        question=benchmark.question,
        config=Config,
        steps=steps,
        compute=compute,
        report=report,
        version=benchmark.version,
        slow=True,
        scores_edges=lambda config: config.circuits,
        paired=False,
        prepare=prepare,
        marks=lambda context, config: config.limit if benchmark.whole else None,
    )


def _drawn(rows: Sequence[int], limit: int, name: Any, seed: int) -> list[int]:
    """So many of a set's rows by the seed; a higher limit draws the same ones and further ones."""
    if limit >= len(rows):
        return list(rows)
    draw = random.Random(seed if name is None else f"{seed} {name}")
    chosen: dict[int, None] = {}
    while len(chosen) < limit:
        chosen.setdefault(draw.randrange(len(rows)))
    return [rows[place] for place in chosen]


def edit_or(*baselines: str) -> Callable[[str], EditMethod | None]:
    """`Benchmark.edit_of` for the methods of editing beside these baselines."""

    def edit_of(method: str) -> EditMethod | None:
        return None if method in baselines else EditMethod.of(method)

    return edit_of


def by_method(parts: Mapping[str, Part]) -> dict[str, list[Part]]:
    """The units of each method, in their order."""
    groups: dict[str, list[Part]] = {}
    for part in parts.values():
        groups.setdefault(part["method"], []).append(part)
    return groups


def decided(benchmark: Benchmark, config: Config, path: Path) -> Config:
    """The options with the hashes of all that is read: data, own functions, files of settings."""
    beside = path.parent.glob(benchmark.beside) if benchmark.beside and path.is_file() else ()
    own: list[Open] = [*benchmark.edits_of(config)]
    own += [each for each in vars(benchmark.settings_of(config)).values() if isinstance(each, Open)]
    found = [each.source_sha256 for each in own if each.source_sha256]
    for text in config.settings:
        named = Path(text.partition("=")[2].removeprefix("hub:").strip("\"'")).expanduser()
        if named.name and named.exists():
            found.append(content_sha256(named))
    mark = sha256("\n".join(found).encode()).hexdigest() if found else ""
    return replace(config, data_sha256=content_sha256(path, beside), own_sha256=mark)
