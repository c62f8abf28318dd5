"""`kc sweep`: a grid of units, here, in several processes or on a cluster; its state, a table."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.errors import OptionError
from circuits.base.idle import Given, Idle
from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.run import OneShard
from experiments.executors.base import Executing

if TYPE_CHECKING:
    from experiments.sweeps.running import Plan, Told

STATUS, TABLE = "status", "table"
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC.yaml | status DIR | table DIR",
        help="A spec to run; or how far a sweep is; or all its results as a table.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would run, and how long it may take.")
]
First = Annotated[
    int | None,
    typer.Option(
        "--first",
        min=1,
        help="Only the first so many that are missing, no analyses and benchmarks.",
    ),
]
SHOWN = 10
"""Failures listed on the screen."""
EVERY = 2.0
"""Seconds between two lines of progress where no terminal redraws them."""


def sweep(
    *,
    given: Given,
    words: Words,
    executing: Executing,
    shard: OneShard = None,
    first: First = None,
    dry_run: DryRun = False,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Run a grid of verbs over models, facts, settings and seeds; one that stopped goes on.

    With --json one object a line, each as soon as it is known.
    """
    console = Console(as_json)
    if words[0] in (STATUS, TABLE):
        options = ("shard", "first", "dry_run", *(each.name for each in fields(Executing)))
        given.refuse(Idle(f"on `kc sweep {words[0]}`, which runs nothing", options))
        folder = _folder(words, out)
        if words[0] == STATUS:
            _status(console, folder)
        else:
            _table(console, folder)
        return
    if len(words) > 1:
        raise OptionError(f"one spec at a time, or {STATUS} DIR or {TABLE} DIR; not {words[1]!r}")
    with console.working():
        from dataclasses import replace

        from experiments.analyses.engine.parts import Shard
        from experiments.sweeps.running import plan
        from experiments.sweeps.runs import check
        from experiments.sweeps.spec import read_spec

        spec = read_spec(words[0])
        for work in spec.runs:
            check(work)
        folder = out or Path("out") / Path(words[0]).stem
        part = Shard.parse(shard)
        o.check_files(None, folder, inputs=[words[0]])
        with console.stage("plan"):
            found = plan(spec, folder, part)
        if first is not None:
            found = replace(found, missing=found.missing[:first], due=())
        _say_plan(console, found, executing)
        if dry_run:
            return
        told = _run(console, found, executing)
    failed = told.ended - told.done
    console.say(f"\n{folder}")
    if as_json:
        ends = {"done": told.done, "left_out": told.left_out, "failed": failed}
        console.event({"event": "end", **ends})
    if failed:
        from circuits.base.errors import UnitError

        raise UnitError(
            f"{failed} failed; `kc sweep {STATUS} {folder}` lists them, and the same command tries "
            "them again"
        )


def _folder(words: list[str], out: Path | None) -> Path:
    if len(words) != 2 or out is not None:
        raise OptionError(f"`kc sweep {words[0]}` takes one folder")
    folder = Path(words[1])
    if not folder.is_dir():
        raise OptionError(f"there is no folder {folder}")
    return folder


def _say_plan(console: Console, found: Plan, how: Executing) -> None:
    from circuits.base.progress import lasting
    from experiments.executors.base import ExecutorKind
    from experiments.sweeps.running import groups_text

    workers = 1 if how.executor == ExecutorKind.SERIAL else how.workers
    seconds = found.estimate(workers)
    if console.as_json:
        console.event(
            {
                "event": "plan",
                "units": len(found.jobs),
                "missing": len(found.missing),
                "runs": len(found.runs),
                "seconds": seconds,
            }
        )
        return
    if found.jobs:
        console.table(("verb", "model", "units", "to do"), groups_text(found.groups))
    told = f"{len(found.jobs)} units, {len(found.missing)} to do"
    if found.runs:
        told += f", and {len(found.runs)} analyses or benchmarks"
    if seconds is not None and found.missing:
        told += f": about {lasting(seconds)} with {workers} at a time"
    elif found.missing:
        told += "; --first 3 runs three of them, after which --dry-run says how long the rest takes"
    console.say(told)


def _run(console: Console, found: Plan, how: Executing) -> Told:
    import time

    from experiments.sweeps.running import run

    shown = [0.0]

    def tell(event: dict[str, Any], told: Told) -> None:
        if console.as_json:
            console.event({"event": "unit", **event, "ended": told.ended, "total": told.total})
        if event["status"] != "done":
            console.warn(f"{event['unit']} {event['status']}: {event['reason']}")
        elif "report" in event:
            console.say(f"{event['unit']}: {event['report']}")
        elif event["reason"]:
            console.note(f"nothing to be found in {event['unit']}: {event['reason']}")
        if time.monotonic() - shown[0] > EVERY or told.ended == told.total:
            shown[0] = time.monotonic()
            console.note(told.line())

    return run(found, how, tell, console.note)


def _status(console: Console, folder: Path) -> None:
    with console.working():
        from circuits.base.progress import lasting
        from circuits.files.sweep import COUNTS
        from experiments.sweeps.running import status

        found = status(folder)
    if not found["units"]:
        raise OptionError(f"{folder} holds no plan of a sweep")
    rows = []
    for row in found["units"]:
        left, seconds = row["planned"] - row["done"], row["seconds"]
        rest = "" if seconds is None else lasting(seconds * left)
        shown = "" if seconds is None else f"{seconds:.1f}"
        counts = (str(row[name]) for name in COUNTS)
        rows.append((row["model"], row["verb"], *counts, shown, rest))
    console.found(found["says"])
    console.table(
        (
            *("model", "verb", "planned", "done", "nothing to be found", "failed"),
            *("seconds a unit", "left, one at a time"),
        ),
        rows,
    )
    for each in found["failures"][:SHOWN]:
        console.say(f"{each['status']}: {each['unit']}: {each['reason']}")
    if len(found["failures"]) > SHOWN:
        console.say(f"and {len(found['failures']) - SHOWN} more in {folder / 'errors'}")
    console.result(found)


def _table(console: Console, folder: Path) -> None:
    with console.working():
        from experiments.sweeps.table import write_table

        path, n_rows = write_table(folder)
    said = f"{n_rows:,} rows are in {path}."
    console.say(said)
    console.result(stamped("sweep-table", {"rows": n_rows, "file": str(path)}, said))
