"""Sweeps as app and page hold them: each unit is read once, and again where its file was touched.

Reading many large units takes longer than a page of the app may: a thread reads, and who looks sees
what is read so far, and how much is not. The table that `kc sweep table` writes makes it quick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import RLock, Thread

from circuits.files.sweep import (
    Unit,
    counted,
    nothing_in,
    read_failure,
    read_file,
    read_table,
    unit_files,
)
from circuits.files.units import Store
from viz.matrix import numbers_in, settings_in

PATIENCE = 2.0
"""Seconds that a page of the app waits for units to be read."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """What was seen of a sweep's folder at one time.

    `units` are those that were read, then failed ones; `unread` counts files that are still to be
    read, `counts` has planned, done and failed units by model and verb (a run is one),
    `labels` what planned units are called, `runs` how many analyses and benchmarks have a report.
    """

    units: Sequence[Unit] = ()
    unread: int = 0
    counts: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    runs: int = 0

    @cached_property
    def bad(self) -> list[Unit]:
        """Units that failed or are damaged."""
        return [unit for unit in self.units if unit.error]

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """The values of every setting of its units."""
        return settings_in(self.units)

    @cached_property
    def numbers(self) -> list[str]:
        """The names of its units' numbers."""
        return numbers_in(self.units)

    @property
    def models(self) -> list[str]:
        """Models that units were planned of."""
        return list(dict.fromkeys(model for model, _ in self.counts))

    def says(self) -> str:
        """In a sentence, what the sweep holds: of all planned units, and by model."""
        total: Counter[str] = Counter()
        models: dict[str, Counter[str]] = {}
        for (model, _), row in self.counts.items():
            total.update(row)
            models.setdefault(model, Counter()).update(row)
        damaged = sum(unit.key in self.stored for unit in self.bad)
        told = f"{total['done']:,} of {total['planned']:,} planned units are done"
        if not self.counts:
            told = f"{len(self.stored):,} units are done, of a plan that is not in the folder"
            total["failed"] = len(self.bad) - damaged
        empty = sum(bool(unit.left_out) for unit in self.units)
        told += nothing_in(empty)
        told += f", {total['failed']:,} failed" if total["failed"] else ", none failed"
        if damaged:
            told += f", {damaged:,} of the done {'is' if damaged == 1 else 'are'} damaged"
        if len(models) > 1:
            each = (f"{name} {row['done']:,} of {row['planned']:,}" for name, row in models.items())
            told += f" ({', '.join(each)})"
        elif models:
            told += f" (all of {next(iter(models))})"
        if self.runs:
            told += f"; {self.runs} analyses or benchmarks have their reports in runs/"
        return told + "."


class SweepReader:
    """The units of one folder, kept from one look to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[str, Unit]] = {}
        self._thread: Thread | None = None
        self._lock = RLock()
        self._last: Sweep | None = None

    def look(self, patience: float | None = PATIENCE) -> Sweep:
        """What the folder holds now; `unread` says where reading goes on.

        `patience` is how many seconds to wait for that; None waits to the end.
        """
        files = list(unit_files(self.folder))
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(
                    target=self._read, args=(files,), daemon=True, name="kc-sweep"
                )
                self._thread.start()
            thread = self._thread
        thread.join(patience)
        store = Store(self.folder)
        planned, errors, reports = store.planned(), store.errors(), store.reports()
        stored = frozenset(key for key, _, _ in files)
        with self._lock:
            known = dict(self._known)
        read = [known[key][1] for key, _, mark in files if key in known and known[key][0] == mark]
        empty = {unit.key for unit in read if unit.left_out}
        failed = [read_failure(key, told) for key, told in errors.items() if key not in stored]
        self._last = Sweep(
            [*read, *failed],
            len(files) - len(read),
            counted(planned, stored | reports, set(errors), empty),
            {key: label for key, (_, _, label) in planned.items()},
            stored,
            len(reports),
        )
        return self._last

    def last(self) -> Sweep:
        """What the last look saw; what answers to a click shows what the page shows."""
        seen = self._last
        return self.look() if seen is None or seen.unread else seen

    def _read(self, files: Sequence[tuple[str, Path, str]]) -> None:
        """Read what is new or was touched, from the table where it has it."""
        with self._lock:
            known = dict(self._known)
        missing = [each for each in files if known.get(each[0], ("",))[0] != each[2]]
        tabled = read_table(self.folder) if len(missing) > 1 else {}
        for key, path, mark in missing:
            found = tabled.get(key)
            unit = found[1] if found is not None and found[0] == mark else read_file(path, key)
            with self._lock:
                self._known[key] = mark, unit
