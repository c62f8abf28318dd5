"""All results of a sweep as one table: a row a unit, its settings and its numbers as columns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from circuits.base.errors import FileFormatError
from circuits.base.origin import SUMMARY
from circuits.files.sweep import FILE, SETTING, TABLE, mark_text, numbers_of, settings_of
from circuits.files.units import RUNS, Store, read_unit
from experiments.analyses.engine.parts import PARTS

AT_ONCE = 4000
"""Units that are held in memory together."""


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """One record a stored unit; a unit whose file is damaged says so under `damaged`."""
    store = Store(folder)
    for key, entry in store.files():
        mark = mark_text(entry)
        unit = read_unit(Path(entry.path), key)
        if unit is None:
            yield {"key": key, "damaged": True, FILE: mark}
            continue
        yield {
            "key": key,
            "verb": unit["verb"],
            "model": unit["model"],
            "dtype": unit["dtype"],
            "left_out": unit["left_out"],
            "damaged": False,
            FILE: mark,
            **{f"{SETTING}{name}": value for name, value in settings_of(unit).items()},
            **numbers_of(unit["values"]),
        }
    yield from _parts(folder)


def write_table(folder: Path) -> tuple[Path, int]:
    """Write the Parquet file, so many units at a time; returns its path and how many rows it has.

    FileFormatError where the folder holds no unit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / TABLE
    count = 0
    with TemporaryDirectory(dir=folder, prefix=".kc-table-") as held:
        pieces: list[Path] = []
        for piece in _pieces(rows(folder)):
            pieces.append(Path(held) / str(len(pieces)))
            count += len(piece)
            pq.write_table(pa.Table.from_pylist(_alike(piece)), pieces[-1])
        if not count:
            raise FileFormatError(folder, "holds no unit of a sweep")
        schemas = [pq.read_schema(each) for each in pieces]
        whole = _common(schemas)
        stage = Path(held) / TABLE
        with pq.ParquetWriter(stage, whole) as writer:
            for each in pieces:
                found = pq.read_table(each)
                missing = [name for name in whole.names if name not in found.column_names]
                for name in missing:
                    found = found.append_column(name, pa.nulls(len(found), whole.field(name).type))
                writer.write_table(found.select(whole.names).cast(whole))
        os.replace(stage, path)
    return path, count


def _common(schemas: Sequence[Any]) -> Any:
    """A schema that holds all pieces: text where they differ."""
    import pyarrow as pa

    kinds: dict[str, set[Any]] = {}
    for schema in schemas:
        for each in schema:
            kinds.setdefault(each.name, set()).add(each.type)
    wanted = {name: found - {pa.null()} for name, found in kinds.items()}
    return pa.schema(
        [
            (name, next(iter(found)) if len(found) == 1 else pa.string())
            for name, found in wanted.items()
        ]
    )


def _pieces(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while piece := list(islice(records, AT_ONCE)):
        yield piece


def _alike(piece: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with the same columns, each of one type: whole numbers as numbers, else text."""
    kinds: dict[str, set[type]] = {}
    for record in piece:
        for name, value in record.items():
            kinds.setdefault(name, set()).add(type(value))
    made = {name: _conversion(found - {type(None)}) for name, found in kinds.items()}
    return [
        {
            name: None if (value := record.get(name)) is None else convert(value)
            for name, convert in made.items()
        }
        for record in piece
    ]


def _conversion(kinds: set[type]) -> Any:
    """Numbers are floating throughout, so that pieces and columns fit together."""
    if kinds <= {bool}:
        return bool
    return float if kinds <= {int, float} else str


def _parts(folder: Path) -> Iterator[dict[str, Any]]:
    """Units of analyses and benchmarks, which their folders hold.

    Those that a run's report was not made of, as an earlier version's, are no part of it.
    """
    run, asked, mark = None, dict[str, Any](), None
    for path in sorted((folder / RUNS).glob(f"*/{PARTS}/*.json")):
        if run != path.parent.parent:
            run = path.parent.parent
            asked, mark = _asked(run)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            key, value = record["key"], record["value"]
            left_out = record["skipped"]
            if mark not in (None, record["fingerprint"]):
                continue
        except (OSError, ValueError, KeyError, TypeError):
            yield {"key": str(path.relative_to(folder)), "damaged": True}
            continue
        yield {
            **asked,
            "key": key,
            "verb": "run",
            "run": path.parent.parent.name,
            "left_out": left_out,
            "damaged": False,
            **numbers_of(value or {}),
        }


def _asked(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Model, precision and settings of a run by its summary, and the fingerprint of its units.

    Nothing before its report is made.
    """
    try:
        origin = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["provenance"]
        asked = ("analysis", "seed", "known", "shots", "templates")
        settings = {name: origin.get(name) for name in asked}
        settings |= dict(origin["config"])
        found = {"model": origin["model"], "dtype": origin["dtype"]}
        mark = str(origin["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, None
    given = {name: value for name, value in settings.items() if value is not None}
    named = settings_of({"settings": given})
    return found | {f"{SETTING}{name}": value for name, value in named.items()}, mark
