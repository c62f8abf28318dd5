"""What a sweep's folder holds, read for looking: its units as settings and numbers, its state.

A unit is read by its file's header alone, or from the table that `kc sweep table` wrote where that
was made of the same file. That a file's arrays are intact is said by who opens it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any

from circuits.base.arrays import describe_file
from circuits.base.errors import FileFormatError
from circuits.files.units import UNIT, Store, flat, mark_of

TABLE = "table.parquet"
SETTING = "settings."
FILE = "unit.file"
"""The column of the table that holds the mark of the file that a row was read from."""
BASE = ("key", "verb", "model", "dtype", "left_out", "damaged", FILE)
DAMAGED = "is damaged; `kc sweep` does it again"
COUNTS = ("planned", "done", "left_out", "failed")
"""What is counted of a sweep's units; those left out are done, and nothing was to be found."""
_DROPPED = ("provenance.", "values.provenance.")
"""Where a number comes from is told in its unit's file."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit for looking: settings as text (verb, model and dtype among them), its numbers.

    `left_out` says why nothing was found, `error` why it failed or that its file is damaged.
    Truths count as 1 and 0.
    """

    key: str
    settings: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    left_out: str = ""
    error: str = ""


def is_sweep(folder: Path) -> bool:
    """Whether `kc sweep` wrote a folder: it holds plans, or shelves of units."""
    plans, units = folder / "plans", folder / "units"
    with suppress(OSError):
        if plans.is_dir() and not plans.is_symlink() and any(plans.glob("*.json")):
            return True
        if units.is_dir() and not units.is_symlink():
            return any(re.fullmatch("[0-9a-f]{2}", entry.name) for entry in os.scandir(units))
    return False


def settings_of(unit: Mapping[str, Any]) -> dict[str, Any]:
    """A stored unit's settings, lists as words."""
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in unit["settings"].items()
    }


def numbers_of(values: Any) -> dict[str, Any]:
    """What a stored unit gave, by dotted names."""
    return {name: value for name, value in flat(values).items() if not name.startswith(_DROPPED)}


def as_text(value: Any) -> str:
    """A setting for choosing by; whole numbers are the same however they were written."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return str(value)


def read_file(path: Path, key: str) -> Unit:
    """The unit in a file, by its header; a damaged one says so under `error`."""
    try:
        _, content = describe_file(path)
        unit = content["provenance"][UNIT]
        if unit["key"] != key:
            return Unit(key, error="holds another unit than its name says")
        told = {name: unit[name] for name in ("verb", "model", "dtype")} | settings_of(unit)
        return _unit(key, told, numbers_of(unit["values"]), unit["left_out"])
    except FileFormatError as error:
        return Unit(key, error=str(error).removeprefix(f"{path}: "))
    except (KeyError, TypeError, AttributeError, RecursionError):
        return Unit(key, error="does not say which unit it is")


def read_failure(key: str, told: Mapping[str, Any]) -> Unit:
    """A unit that failed, from what its folder tells of it."""
    reason = " ".join(f"{told.get('status', 'failed')}: {told.get('reason', '')}".split())
    settings = told.get("settings")
    if not isinstance(settings, Mapping):  # an earlier version's record
        return Unit(key, error=reason)
    names = ("verb", "model", "dtype")
    known = {name: told[name] for name in names if isinstance(told.get(name), str)}
    return _unit(key, known | settings_of({"settings": settings}), {}, "", reason)


def read_table(folder: Path) -> dict[str, tuple[str, Unit]]:
    """Units by key, with the marks of their files, from the table; empty where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / TABLE
    try:
        if path.is_symlink() or not path.is_file():
            return {}
        table = pq.read_table(path, partitioning=None)
        if not {*BASE} <= set(table.column_names):
            return {}
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (OSError, pa.ArrowException):
        return {}
    settings = {name.removeprefix(SETTING) for name in columns if name.startswith(SETTING)}
    numbers = [name for name in columns if name not in BASE and not name.startswith(SETTING)]
    found: dict[str, tuple[str, Unit]] = {}
    for place, (key, mark) in enumerate(zip(columns["key"], columns[FILE], strict=True)):
        if mark is None or key is None:
            continue
        if columns["damaged"][place]:
            found[key] = mark, Unit(key, error=DAMAGED)
            continue
        told = {name: columns[name][place] for name in ("verb", "model", "dtype")}
        told |= {name: columns[SETTING + name][place] for name in settings}
        values = {name: columns[name][place] for name in numbers}
        found[key] = mark, _unit(key, told, values, columns["left_out"][place] or "")
    return found


def unit_files(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Key, file and mark of every stored unit, no links: what is elsewhere is not read."""
    if (folder / "units").is_symlink():
        return
    shelves: dict[str, bool] = {}
    for key, entry in Store(folder).files():
        shelf = os.path.dirname(entry.path)
        if shelf not in shelves:
            shelves[shelf] = os.path.islink(shelf)
        with suppress(OSError):
            if not shelves[shelf] and entry.is_file(follow_symlinks=False):
                yield key, Path(entry.path), mark_text(entry)


def mark_text(file: os.DirEntry[str] | Path) -> str:
    """What tells whether a file was touched, as the table has it."""
    return " ".join(map(str, mark_of(file)))


def counted(
    planned: Mapping[str, tuple[str, str, str]],
    stored: Collection[str],
    failed: Collection[str],
    left_out: Collection[str],
) -> dict[tuple[str, str], dict[str, Any]]:
    """By model and verb: units planned, done, of these left out, and failed; a run is a unit."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for key, (verb, model, _) in planned.items():
        row = rows.setdefault((model, verb), dict.fromkeys(COUNTS, 0))
        row["planned"] += 1
        row["done"] += key in stored
        row["left_out"] += key in stored and key in left_out
        row["failed"] += key in failed and key not in stored
    return rows


def nothing_in(n: int) -> str:
    """A clause on so many units that are done; empty where there are none."""
    return f", {n:,} of them with nothing to be found" if n else ""


def _unit(
    key: str,
    told: Mapping[str, Any],
    values: Mapping[str, Any],
    left_out: str,
    error: str = "",
) -> Unit:
    """Names and texts are shared between units: there are many of each."""
    settings = {intern(n): intern(as_text(v)) for n, v in told.items() if v is not None}
    numbers = {intern(n): x for n, v in values.items() if (x := _number(v)) is not None}
    return Unit(key, settings, numbers, str(left_out), error)


def _number(value: Any) -> float | None:
    """A finite number, also one that a column of words made text; None for anything else."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
