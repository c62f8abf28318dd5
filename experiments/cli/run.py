"""`kc run`: an analysis, or all of them, from options to a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Like
from locate.options import Loading, Source
from locate.search import Search

if TYPE_CHECKING:
    from experiments.analyses.engine.base import Analysis
    from experiments.analyses.engine.context import Context
    from experiments.analyses.engine.running import Run

EVERYTHING = "all"

Name = Annotated[str | None, typer.Argument(help="An analysis (--list), or all.")]
Listing = Annotated[bool, typer.Option("--list", help="Explain each analysis and its options.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML with options of the analysis.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="One option of the analysis; repeatable."),
]
Redraw = Annotated[
    bool, typer.Option("--redraw", help="Make the report in --out again, without the model.")
]


def run(
    *,
    name: Name = None,
    model: o.ModelName = "facts-gpt2",
    facts: Annotated[str | None, Like(Source, "facts")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    listing: Listing = False,
    redraw: Redraw = False,
    seed: Annotated[int, Like(Source, "seed")] = 0,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
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
        from experiments.analyses.engine.context import Context
        from experiments.analyses.engine.registry import MODULES, analysis
        from experiments.analyses.engine.running import run_all, write_index

        if name is None:
            raise OptionError(f"name an analysis: {', '.join(MODULES)}, or all; `listing` explains")
        if name == EVERYTHING and (config or settings):
            raise OptionError("`config` and `settings` go with one analysis, not with all")
        folder = out or Path("out") / f"{Path(model).name.replace('@', '-')}-{name}"
        names = list(MODULES) if name == EVERYTHING else [name]
        chosen = [analysis(each) for each in names]
        device, dtype = loading.device, loading.dtype
        context = Context(model, folder, seed, device, dtype, facts, batch_size=batch_size)
        if name == EVERYTHING:
            runs, left_out = run_all(chosen, context, console.stage, console.warn, redraw)
            summary, page = write_index(runs, left_out, folder)
            files = [page]
        else:
            runs = [_one(chosen[0], context, config, settings, redraw, console)]
            summary, files = runs[0].summary, runs[0].files[:1]
    for done in runs:
        _show(console, done)
    console.files(files)
    console.result({**summary, "files": [str(path) for path in files]})


def _one(
    chosen: Analysis,
    context: Context,
    config: Path | None,
    settings: list[str] | None,
    again: bool,
    console: Console,
) -> Run:
    from experiments.analyses.engine import config as options
    from experiments.analyses.engine.running import redraw, run_analysis

    if again:
        return redraw(chosen, context.folder, console.stage)
    values: Any = options.read_config(chosen.config, config) if config else chosen.config()
    values = options.with_settings(values, settings or [])
    return run_analysis(chosen, values, context, console.stage, console.warn)


def _show(console: Console, done: Run) -> None:
    console.say(f"\n{done.analysis.title}\n{done.report.lead}")
    for claim in done.report.answer:
        console.say(f"- {claim.sentence}")


def _list(console: Console) -> None:
    with console.working():
        from experiments.analyses.engine import config as options
        from experiments.analyses.engine.registry import analyses

        found = analyses()
    for each in found:
        console.say(f"{each.name}: {each.title}\n  {each.question}")
        values = each.config()
        for name, meaning in options.meanings(values).items():
            value = options.option_text(options.as_dict(values)[name])
            console.say(f"    {name} = {value}: {meaning}")
        console.say()
    console.result({each.name: {"title": each.title, "question": each.question} for each in found})
