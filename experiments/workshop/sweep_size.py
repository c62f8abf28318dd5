"""What so many units of a sweep cost beside their work: planning, storing, resuming, the table,
and the app's page.

The units are empty: edits that are planned as always and stored as records of a few numbers.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from circuits.files.units import Store
from experiments.sweeps.plan import UnitJob
from experiments.sweeps.running import Plan, plan, status
from experiments.sweeps.spec import parse_spec
from experiments.sweeps.table import write_table
from viz.app.context import Context
from viz.app.library import Library
from viz.app.routes import page_of
from viz.app.state import ViewState

MODEL = "facts-gpt2"
PARTS = 24
"""Numbers that a unit has."""


def main() -> None:
    """Print seconds and memory of each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--fsync", action="store_true", help="wait for the disk, as a sweep does")
    given = parser.parse_args()
    with TemporaryDirectory() as held:
        folder = Path(held) / "sweep"
        _plan(1, folder)  # the model is loaded, and known from here on
        planned = _timed("plan", lambda: _plan(given.units, folder))
        assert len(planned.missing) == given.units
        waiting = patch("os.fsync", lambda handle: None)
        if not given.fsync:
            waiting.start()
        _timed("store", lambda: _store_all(Store(folder), planned))
        again = _timed("plan again, reading all files", lambda: _plan(given.units, folder))
        assert not again.missing
        _timed("plan again", lambda: _plan(given.units, folder))
        _timed("status", lambda: status(folder))
        _timed("the app's page", lambda: _page(folder))
        path, rows = _timed("table", lambda: write_table(folder))
        print(f"{rows} rows, {path.stat().st_size / 2**20:.0f} MiB")
        context = _timed("the app's page, from the table", lambda: _page(folder))
        _timed("the app's page again", lambda: page_of(context, ViewState(), "", {}))


def _page(folder: Path) -> Context:
    """The page of a server that has just started, with all units read."""
    context = Context(Library(folder))
    (entry,) = context.library.entries()
    while context.library.sweep(entry.id).look(60).unread:
        pass
    page_of(context, ViewState(), "", {})
    return context


def _plan(units: int, folder: Path) -> Plan:
    entry = {"verb": "edit", "random": units, "method": "ft"}
    return plan(parse_spec({"models": [MODEL], "units": [entry]}), folder)


def _store_all(store: Store, planned: Plan) -> None:
    for job in planned.jobs:
        _store(store, job)


def _store(store: Store, job: UnitJob) -> None:
    numbers = {f"number{place}": place / 7 for place in range(PARTS)}
    told = {"key": job.key, "verb": job.work.verb, "model": MODEL, "dtype": "fp32"}
    settings = dict(job.work.settings)
    store.save(job.key, {**told, "settings": settings, "left_out": "", "values": numbers}, None)


def _timed(name: str, work: Callable[[], Any]) -> Any:
    start, processor = time.perf_counter(), time.process_time()
    found = work()
    seconds, busy = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name}: {seconds:.1f} s ({busy:.1f} of the processor), peak {peak:.0f} MiB", flush=True)
    return found


if __name__ == "__main__":
    main()
