"""`kc benchmark`: published benchmarks by any method, from a file or our own small one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.run import OneShard, note_bos_of, show_run
from experiments.cli.signature import Like
from experiments.executors.base import Executing
from locate.options import Loading, Source
from locate.search import Search

if TYPE_CHECKING:
    from experiments.analyses.engine.base import Run
    from experiments.analyses.engine.context import Context
    from experiments.analyses.engine.parts import Shard
    from experiments.benchmarks.base import Benchmark, Config

Names = Annotated[list[str] | None, typer.Argument(help="Benchmarks (--list), or all.")]
Listing = Annotated[
    bool, typer.Option("--list", help="Explain each: where its data is, its licence and form.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="PATH", help="Its file or folder; else our own few cases."),
]
Methods = Annotated[
    str | None,
    typer.Option("--methods", metavar="A,B", help="Methods and baselines, for its usual ones."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        help="Cases (of a set), drawn by the seed; else all.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a file of which a row cannot be used.")
]
Circuits = Annotated[
    bool,
    typer.Option("--circuits", help="Find each case's circuit before and after its edit too."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An option of the benchmark; repeatable."),
]


def benchmark(
    *,
    names: Names = None,
    model: o.ModelName = "facts-gpt2",
    data: Data = None,
    methods: Methods = None,
    limit: Limit = None,
    strict: Strict = False,
    circuits: Circuits = False,
    settings: Settings = None,
    listing: Listing = False,
    shard: OneShard = None,
    executing: Executing,
    seed: Annotated[int, Like(Source, "seed")] = 0,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
    memory: Annotated[str | None, Like(Search, "memory")] = None,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Run a published benchmark of editing or unlearning and write a report; resumable by case."""
    console = Console(as_json)
    if listing:
        _list(console)
        return
    with console.working():
        from circuits.base.errors import OptionError
        from circuits.base.sizes import bytes_of
        from experiments.analyses.engine.context import Context
        from experiments.analyses.engine.parts import Shard, UnfinishedError
        from experiments.analyses.engine.running import in_turn
        from experiments.benchmarks.base import Config
        from experiments.benchmarks.registry import EVERYTHING, chosen
        from experiments.benchmarks.registry import benchmark as named

        asked = list(dict.fromkeys(names or ()))
        if not asked:
            raise OptionError("name a benchmark, or all; --list explains them")
        found = chosen(asked)
        one = len(found) == 1 and asked != [EVERYTHING]
        if not one and (data or settings):
            raise OptionError("--data and --set go with one benchmark, not with several")
        folder = out or Path("out") / f"{Path(model).name}-benchmark-{'-'.join(asked)}"
        context = Context(
            model,
            folder,
            seed,
            loading.device,
            loading.dtype,
            batch_size=batch_size,
            device_map=loading.device_map,
            memory=None if memory is None else bytes_of("memory", memory),
        )
        part = Shard.parse(shard)
        config = Config((), limit, settings=tuple(settings or ()), circuits=circuits)

        def make(name: str) -> Run:
            own = context if one else context.inside(folder / name)
            return _one(named(name), own, data, methods, strict, config, part, executing, console)

        failed: dict[str, str] = {}
        waiting: dict[str, str] = {}
        if one:
            try:
                runs = [make(found[0].name)]
            except UnfinishedError as error:
                runs, waiting = [], {found[0].name: str(error)}
        else:
            runs, failed, waiting = in_turn([each.name for each in found], make, console.warn)
        if waiting:
            console.note("; ".join(waiting.values()))
        elif not runs:
            raise OptionError(f"no benchmark could be run: {'; '.join(failed.values())}")
    for done in runs:
        show_run(console, done)
    note_bos_of(console, runs)
    console.files([done.files[0] for done in runs])
    console.result(
        stamped(
            "benchmark",
            {
                "benchmarks": {done.analysis.name: done.as_dict() for done in runs},
                "left_out": failed,
                "unfinished": list(waiting),
            },
            " ".join(done.says() for done in runs),
        )
    )


def _one(
    chosen: Benchmark,
    context: Context,
    data: Path | None,
    methods: str | None,
    strict: bool,
    config: Config,
    shard: Shard,
    executing: Executing,
    console: Console,
) -> Run:
    from circuits.base.errors import FileFormatError
    from experiments.analyses.engine.base import check_bound
    from experiments.analyses.engine.jobs import spread
    from experiments.analyses.engine.running import run_analysis
    from experiments.benchmarks.base import as_analysis, decided
    from experiments.benchmarks.registry import stored_benchmark

    path = (data or chosen.own_data).expanduser()
    if not path.exists():
        raise FileFormatError(path, "no such file or folder")
    cases = chosen.read(path)
    if strict:
        cases = cases.without_slips()
    for text in cases.told():
        console.warn(f"{chosen.name}: {text} ({path})")
    if data is None:
        console.note(f"{chosen.name}: {len(cases.items)} cases of our own, no published data")
    named = dict.fromkeys(each.strip() for each in methods.split(",")) if methods else ()
    wanted = tuple(named) or chosen.methods
    config = replace(config, methods=wanted)
    if data is not None:
        config = replace(config, data=str(data))
    chosen.refuse(config)
    config = decided(chosen, config, path)
    analysis = as_analysis(chosen, cases)
    check_bound(context.memory, (analysis, config))
    where = (chosen.name, str(path.absolute()))
    elsewhere = spread(stored_benchmark, where, config, context, executing, console.note)
    return run_analysis(analysis, config, context, console.stage, console.warn, shard, elsewhere)


def _list(console: Console) -> None:
    with console.working():
        from circuits.base.options import as_dict, meanings
        from experiments.analyses.engine.config import option_text
        from experiments.benchmarks.registry import BENCHMARKS
        from experiments.benchmarks.registry import benchmark as named

        found = [named(name) for name in BENCHMARKS]
    for each in found:
        console.say(f"{each.name}: {each.title}\n  {each.question}")
        for label, text in (
            ("data", each.published),
            ("licence", each.licence),
            ("form", each.form),
            ("methods", ", ".join(each.methods)),
        ):
            console.say(f"    {label}: {text}")
        for name, value in as_dict(each.settings()).items():
            text = meanings(each.settings)[name].text
            console.say(f"    --set {name}={option_text(value)}: {text}")
        console.say()
    told = {
        each.name: {
            "title": each.title,
            "question": each.question,
            "published": each.published,
            "licence": each.licence,
            "form": each.form,
            "methods": list(each.methods),
        }
        for each in found
    }
    console.result(stamped("benchmark-list", {"benchmarks": told}))
