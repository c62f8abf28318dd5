"""`kc run`: an analysis, or all of them, from options to a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.choices import Known, Templates
from circuits.base.idle import Given, Idle
from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Like
from experiments.executors.base import Executing
from locate.options import Loading, Source
from locate.search import Search

if TYPE_CHECKING:
    from experiments.analyses.engine.base import Analysis, Run
    from experiments.analyses.engine.context import Context
    from experiments.analyses.engine.parts import Shard
    from experiments.analyses.engine.running import Spread

Names = Annotated[list[str] | None, typer.Argument(help="Analyses (--list), or all.")]
Listing = Annotated[bool, typer.Option("--list", help="Explain each analysis and its options.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML with options of the analysis.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="One option of the analysis; repeatable."),
]
Show = Annotated[
    bool, typer.Option("--show", help="Print the options as YAML, as --config takes it.")
]
Redraw = Annotated[
    bool, typer.Option("--redraw", help="Make the report in --out again, without the model.")
]
OneShard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only every N-th unit from the I-th, for N processes with one --out; the one that "
        "finds all units stored makes the report.",
    ),
]
Label = Annotated[
    str | None,
    typer.Option("--label", help="The model's name in titles; of a path by default its last part."),
]
STORED = Idle(
    "with `redraw`, which makes the report of what is stored",
    (
        *("facts", "known", "shots", "templates", "config", "settings", "shard", "seed"),
        *("batch_size", "memory"),
        *(each.name for kind in (Executing, Loading) for each in fields(kind)),
    ),
)


def run(
    *,
    given: Given,
    names: Names = None,
    model: o.ModelName = "facts-gpt2",
    facts: Annotated[str | None, Like(Source, "facts")] = None,
    known: Annotated[Known, Like(Source, "known")] = Known.TOP1,
    shots: Annotated[int, Like(Source, "shots")] = 0,
    templates: Annotated[Templates, Like(Source, "templates")] = Templates.USUAL,
    config: ConfigFile = None,
    settings: Settings = None,
    listing: Listing = False,
    show: Show = False,
    redraw: Redraw = False,
    shard: OneShard = None,
    executing: Executing,
    label: Label = None,
    seed: Annotated[int, Like(Source, "seed")] = 0,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
    memory: Annotated[str | None, Like(Search, "memory")] = None,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Run an analysis of the paper and write a report; a run that stopped goes on where it was."""
    console = Console(as_json)
    if listing:
        _list(console)
        return
    with console.working():
        from circuits.base.errors import OptionError
        from circuits.base.sizes import bytes_of
        from experiments.analyses.engine.base import check_bound
        from experiments.analyses.engine.context import Context
        from experiments.analyses.engine.parts import Shard, UnfinishedError
        from experiments.analyses.engine.registry import EVERYTHING, chosen
        from experiments.analyses.engine.registry import names as all_names
        from experiments.analyses.engine.running import folder_for, run_all, write_index

        asked = list(dict.fromkeys(names or ()))
        if not asked:
            raise OptionError(
                f"name an analysis: {', '.join(all_names())}, or all; --list explains"
            )
        found = chosen(asked)
        one = len(found) == 1 and asked != [EVERYTHING]
        if not one and (config or settings or show):
            raise OptionError("--config, --set and --show go with one analysis, not with several")
        if show:
            _options(console, found[0], config, settings)
            return
        if redraw:
            given.refuse(STORED)
            if out is not None:
                given.refuse(Idle("with `redraw` of what is in `out`", ("model",)))
        folder = out or folder_for(model, asked)
        context = Context(
            model,
            folder,
            seed,
            loading.device,
            loading.dtype,
            facts,
            batch_size=batch_size,
            known=known,
            shots=shots,
            templates=templates,
            label=label,
            device_map=loading.device_map,
            memory=None if memory is None else bytes_of("memory", memory),
        )
        part = Shard.parse(shard)
        spread = partial(_elsewhere, how=executing, note=console.note)
        try:
            if one:
                values = _values(found[0], config, settings)
                check_bound(context.memory, (found[0], values))
                runs = [_one(found[0], context, values, redraw, part, spread, console)]
                summary, files = runs[0].as_dict(), runs[0].files[:1]
            else:
                runs, left_out = run_all(
                    found, context, console.stage, console.warn, redraw, part, spread
                )
                summary, page = write_index(runs, left_out, folder)
                files = (page,)
        except UnfinishedError as error:
            console.note(str(error))
            console.result(stamped("unfinished", {"unfinished": str(error)}, str(error)))
            return
    for done in runs:
        show_run(console, done)
    note_bos_of(console, runs)
    console.files(files)
    console.result({**summary, "files": [str(path) for path in files]})


def _one(
    chosen: Analysis,
    context: Context,
    values: Any,
    again: bool,
    shard: Shard,
    spread: Spread,
    console: Console,
) -> Run:
    from experiments.analyses.engine.running import redraw, run_analysis

    if again:
        return redraw(chosen, context.folder, console.stage, context.label)
    elsewhere = spread(chosen, values, context)
    return run_analysis(chosen, values, context, console.stage, console.warn, shard, elsewhere)


def _elsewhere(
    chosen: Analysis, values: Any, context: Context, how: Executing, note: Callable[[str], Any]
) -> Callable[[Sequence[str]], None] | None:
    """Units computed by an executor, which finds the analysis by its name."""
    from experiments.analyses.engine.jobs import spread
    from experiments.analyses.engine.registry import analysis

    return spread(analysis, chosen.name, values, context, how, note)


def _values(chosen: Analysis, config: Path | None, settings: list[str] | None) -> Any:
    """The defaults, changed by the file, changed by the settings."""
    from experiments.analyses.engine.config import read_config, with_settings

    values = read_config(chosen.config, config) if config else chosen.config()
    return with_settings(values, settings or [])


def _options(
    console: Console, chosen: Analysis, config: Path | None, settings: list[str] | None
) -> None:
    from circuits.base.options import as_dict
    from experiments.analyses.engine.config import as_yaml

    values = _values(chosen, config, settings)
    console.say(as_yaml(values).rstrip())
    console.result(stamped("run-options", {"options": as_dict(values)}))


def show_run(console: Console, done: Run) -> None:
    """A run's answer and its first sentences."""
    lead = done.says()
    console.found(lead, done.analysis.title)
    for claim in done.report.answer:
        if claim.sentence != lead:
            console.say(f"- {claim.sentence}")


def note_bos_of(console: Console, runs: Sequence[Run]) -> None:
    """Say how the prompts of runs of one model began, as far as their reports have it."""
    for bos in {done.provenance["bos"] for done in runs if "bos" in done.provenance}:
        o.note_bos(console, bos)


def _list(console: Console) -> None:
    with console.working():
        from experiments.analyses.engine.listing import listing

        found = listing()
    for each in found:
        console.say(f"{each['name']}: {each['title']}\n  {each['question']}")
        for option in each["options"]:
            console.say(f"    {option['name']} = {option['default']}: {option['meaning']}")
        console.say()
    told = {each["name"]: {n: x for n, x in each.items() if n != "name"} for each in found}
    console.result(stamped("run-list", {"analyses": told}))
