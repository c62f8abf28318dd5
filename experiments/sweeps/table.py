"""All results of a sweep as one table: a row a unit, its settings and its numbers as columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError
from circuits.base.writing import atomic_write
from experiments.analyses.engine.parts import PARTS
from experiments.sweeps.store import Store, flat, read_unit

TABLE = "table.parquet"
_DROPPED = ("provenance.", "values.provenance.")
"""Where a number comes from is told in its unit's file."""


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """One record a stored unit; a unit whose file is damaged says so under `damaged`."""
    store = Store(folder)
    for key in store.keys():
        unit = read_unit(store.path(key), key)
        if unit is None:
            yield {"key": key, "damaged": True}
            continue
        yield {
            "key": key,
            "verb": unit["verb"],
            "model": unit["model"],
            "dtype": unit["dtype"],
            "left_out": unit["left_out"],
            "damaged": False,
            **{f"settings.{name}": value for name, value in _settings(unit).items()},
            **_numbers(unit["values"]),
        }
    yield from _parts(folder)


def write_table(folder: Path) -> tuple[Path, int]:
    """Write the Parquet file; returns its path and how many rows it has.

    FileFormatError where the folder holds no unit.
    """
    import pandas as pd

    found = list(rows(folder))
    if not found:
        raise FileFormatError(folder, "holds no unit of a sweep")
    path = folder / TABLE
    frame = pd.DataFrame(found)
    for name in frame.columns[frame.dtypes == object]:
        kinds = {type(value) for value in frame[name].dropna()}
        if len(kinds) > 1 or kinds & {list, dict}:
            frame[name] = frame[name].map(lambda value: None if value is None else str(value))
    atomic_write(path, frame.to_parquet(index=False))
    return path, len(found)


def _settings(unit: dict[str, Any]) -> dict[str, Any]:
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in unit["settings"].items()
    }


def _numbers(values: Any) -> dict[str, Any]:
    return {name: value for name, value in flat(values).items() if not name.startswith(_DROPPED)}


def _parts(folder: Path) -> Iterator[dict[str, Any]]:
    """Units of analyses and benchmarks, which their folders hold."""
    for path in sorted((folder / "runs").glob(f"*/{PARTS}/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            key, value = record["key"], record["value"]
            left_out = record["skipped"]
        except (OSError, ValueError, KeyError, TypeError):
            yield {"key": str(path.relative_to(folder)), "damaged": True}
            continue
        yield {
            "key": key,
            "verb": "run",
            "run": path.parent.parent.name,
            "left_out": left_out,
            "damaged": False,
            **_numbers(value or {}),
        }
