"""Units of work on disk: each is stored when it is done, and used again while it still holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from circuits.base.errors import PromptError
from circuits.base.plain import plain
from circuits.base.progress import Stages, silent
from circuits.base.writing import save_json, to_json
from experiments.analyses.engine import config as options
from experiments.analyses.engine.base import Analysis, Part, SkipError
from experiments.analyses.engine.context import Context, safe

PARTS = "parts"


@dataclass(frozen=True)
class Parts:
    """All units of a run: values by key, reasons of those left out, seconds, how many were stored.

    `reused` counts the units that were there before and not computed again.
    """

    values: Mapping[str, Part]
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    reused: int = 0


def fingerprint(analysis: Analysis, config: Any, context: Context) -> str:
    """Hash of all that decides a unit's values: analysis, options, weights, facts, seed."""
    decisive = {
        "analysis": analysis.name,
        "version": analysis.version,
        "config": options.as_dict(config, selecting=False),
        "weights": context.model.provenance["weights_sha256"],
        "dtype": context.model.provenance["dtype"],
        "facts": context.facts,
        "seed": context.seed,
    }
    return sha256(to_json(decisive).encode()).hexdigest()


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
                record = _computed(analysis, config, context, key)
            if record["skipped"]:
                note(f"{analysis.name} {key} left out: {record['skipped']}")
            save_json({"fingerprint": mark, **record}, path)
        else:
            reused += 1
        found[key] = record
    return _gathered(found, reused)


def stored_parts(folder: Path, keys: Sequence[str]) -> Parts:
    """The units of an earlier run as they are on disk."""
    found = {}
    for key in keys:
        record = _stored(folder / PARTS / f"{safe(key)}.json", None, key)
        if record is not None:
            found[key] = record
    return _gathered(found, len(found))


def _computed(analysis: Analysis, config: Any, context: Context, key: str) -> dict[str, Any]:
    start, value, reason = time.perf_counter(), None, ""
    try:
        value = plain(analysis.compute(context, config, key))
    except (SkipError, PromptError) as error:
        reason = str(error)
    seconds = round(time.perf_counter() - start, 3)
    return {"key": key, "skipped": reason, "seconds": seconds, "value": value}


def _stored(path: Path, mark: str | None, key: str) -> dict[str, Any] | None:
    """The record, if it is whole, of this key and (where a mark is given) made the same way."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = mark is None or record["fingerprint"] == mark
        return record if same and record["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _gathered(found: Mapping[str, Mapping[str, Any]], reused: int) -> Parts:
    return Parts(
        values={k: record["value"] for k, record in found.items() if not record["skipped"]},
        skipped={k: record["skipped"] for k, record in found.items() if record["skipped"]},
        seconds={k: record["seconds"] for k, record in found.items()},
        reused=reused,
    )
