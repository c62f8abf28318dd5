"""Units of work on disk: each is stored when it is done, and used again while it still holds.

A stored unit names the run that it belongs to and holds a hash of itself, so that a unit of another
run, or a damaged one, is never taken for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, PromptError
from circuits.base.plain import plain
from circuits.base.progress import Stages, silent
from circuits.base.records import read_json
from circuits.base.writing import save_json, to_json
from experiments.analyses.engine import config as options
from experiments.analyses.engine.base import Analysis, Parts, SkipError
from experiments.analyses.engine.context import Context, identity, safe

PARTS = "parts"


def fingerprint(analysis: Analysis, config: Any, context: Context) -> str:
    """Hash of all that decides a unit's values: analysis, options, model, facts, seed."""
    decisive = {
        "analysis": analysis.name,
        "version": analysis.version,
        "config": options.deciding(config),
        "model": identity(context.model),
        "dtype": context.model.provenance["dtype"],
        "facts": context.facts_sha256,
        "seed": context.seed,
        "known": str(context.known),
        "shots": context.shots,
    }
    return _hash(decisive)


def compute_parts(
    analysis: Analysis,
    config: Any,
    context: Context,
    stages: Stages = silent,
    note: Callable[[str], Any] = lambda text: None,
) -> Parts:
    """Every unit's values, computing those that are not stored yet.

    A unit that raises `SkipError` or finds no prompts is left out with its reason, also stored.
    """
    mark = fingerprint(analysis, config, context)
    found: dict[str, dict[str, Any]] = {}
    reused = 0
    for key in analysis.steps(context, config):
        path = context.folder / PARTS / f"{safe(key)}.json"
        record = _stored(path, mark, key)
        if record is None:
            with stages(f"{analysis.name} {key}") as progress:
                context.progress = progress
                record = {"fingerprint": mark, **_computed(analysis, config, context, key)}
            if record["skipped"]:
                note(f"{analysis.name} {key} left out: {record['skipped']}")
            save_json({**record, "sha256": _hash(record)}, path)
        else:
            reused += 1
        found[key] = record
    return _gathered(mark, found, reused)


def stored_parts(folder: Path, mark: str, keys: Sequence[str]) -> Parts:
    """The units of an earlier run; FileFormatError where one is missing, damaged or another's."""
    found = {}
    for key in keys:
        path = folder / PARTS / f"{safe(key)}.json"
        record = _stored(path, mark, key)
        if record is None:
            what = "is damaged or of another run" if path.exists() else "is missing"
            raise FileFormatError(path, f"{what}; run the analysis again")
        found[key] = record
    return _gathered(mark, found, len(found))


def _computed(analysis: Analysis, config: Any, context: Context, key: str) -> dict[str, Any]:
    start, value, reason = time.perf_counter(), None, ""
    try:
        value = plain(analysis.compute(context, config, key))
    except (SkipError, PromptError) as error:
        reason = str(error)
    seconds = round(time.perf_counter() - start, 3)
    return {"key": key, "skipped": reason, "seconds": seconds, "value": value}


def _stored(path: Path, mark: str, key: str) -> dict[str, Any] | None:
    """The record, if it is whole, of this key and of the run with this mark."""
    try:
        record = dict(read_json(path))
        whole = record.pop("sha256") == _hash(record)
        return record if whole and (record["fingerprint"], record["key"]) == (mark, key) else None
    except (FileFormatError, ValueError, KeyError, TypeError):
        return None


def _hash(record: Mapping[str, Any]) -> str:
    return sha256(to_json(record).encode()).hexdigest()


def _gathered(mark: str, found: Mapping[str, Mapping[str, Any]], reused: int) -> Parts:
    return Parts(
        fingerprint=mark,
        values={k: record["value"] for k, record in found.items() if not record["skipped"]},
        skipped={k: record["skipped"] for k, record in found.items() if record["skipped"]},
        seconds={k: record["seconds"] for k, record in found.items()},
        reused=reused,
    )
