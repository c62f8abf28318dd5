"""Units of work on disk: each is stored when it is done, and used again while it still holds.

A stored unit names the run that it belongs to and holds a hash of itself, so that a unit of another
run, or a damaged one, is never taken for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from circuits.base.errors import (
    FileFormatError,
    KnowledgeCircuitsError,
    NothingFoundError,
    NumericalError,
    OptionError,
    PromptError,
)
from circuits.base.plain import plain
from circuits.base.progress import Stages, silent
from circuits.base.records import read_json
from circuits.base.stamps import stamped
from circuits.base.writing import save_json, to_json
from experiments.analyses.engine import config as options
from experiments.analyses.engine.base import Analysis, Parts, SkipError
from experiments.analyses.engine.context import Context, identity, safe

PARTS = "parts"
OWNER = ("model", "weights_sha256")
"""What a unit says of its model, so that a folder without a summary says whose it is."""


class UnfinishedError(KnowledgeCircuitsError):
    """A shard is done, and units of others are not: there is no report yet. No mistake."""

    exit_code = 0


@dataclass(frozen=True)
class Shard:
    """Every `of`-th unit from the `place`-th, which counts from 1: one process's part of a run.

    Shards of one run may write into one folder at the same time, each its own units.
    """

    place: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.place <= self.of:
            raise OptionError(f"`shard` {self.place}/{self.of} is no I/N with 1 <= I <= N")

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """From `I/N`; the whole for None. OptionError for anything else."""
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not found:
            raise OptionError(f"`shard` {text!r} is no I/N, as 1/4")
        return cls(int(found[1]), int(found[2]))

    def has(self, index: int) -> bool:
        """Whether the unit at this index, from 0, is its own."""
        return index % self.of == self.place - 1


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
        "templates": str(context.asked_in),
    }
    if own := context.known.source_sha256:
        decisive["known_sha256"] = own
    if (more := analysis.marks(context, config)) is not None:
        decisive["marks"] = more
    return _hash(decisive)


def compute_parts(
    analysis: Analysis,
    config: Any,
    context: Context,
    stages: Stages = silent,
    note: Callable[[str], Any] = lambda text: None,
    shard: Shard = Shard(),
    spread: Callable[[Sequence[str]], None] | None = None,
) -> Parts:
    """Every unit's values, computing those of the shard that are not stored yet.

    `spread(keys)` has units computed and stored elsewhere (`experiments.analyses.engine.jobs`);
    without it they are computed here, one after the other. A unit that raises `SkipError`, or finds
    no prompts or no circuit, is left out with its reason, also stored. UnfinishedError where units
    of other shards are missing in the end.
    """
    keys = list(dict.fromkeys(analysis.steps(context, config)))  # what is named twice is one unit
    mark = fingerprint(analysis, config, context)
    found = _all_stored(context.folder, mark, keys)
    missing = [key for index, key in enumerate(keys) if shard.has(index) and key not in found]
    if missing and analysis.prepare is not None:
        with stages(f"{analysis.name} preparation") as progress:
            context.progress = progress
            told = analysis.prepare(context, config)
        if told:
            note(told)
    if spread is None:
        for key in missing:
            found[key] = compute_part(analysis, config, context, key, stages, note)
    elif missing:
        spread(missing)
    found |= _all_stored(context.folder, mark, [key for key in keys if key not in found])
    if len(found) < len(keys):
        raise UnfinishedError(
            f"{analysis.name}: {len(found)} of {len(keys)} units are stored in {context.folder}; "
            "the report is made when all are"
        )
    return _gathered(mark, {key: found[key] for key in keys}, len(keys) - len(missing))


def compute_part(
    analysis: Analysis,
    config: Any,
    context: Context,
    key: str,
    stages: Stages = silent,
    note: Callable[[str], Any] = lambda text: None,
) -> dict[str, Any]:
    """One unit's record, computed and stored."""
    mark = fingerprint(analysis, config, context)
    with stages(f"{analysis.name} {key}") as progress:
        context.progress = progress
        computed = _computed(analysis, config, context, key)
        origin = context.model.provenance
        owner = {"analysis": analysis.name, **{name: origin.get(name) for name in OWNER}}
        record = stamped("run-unit", {"fingerprint": mark, **owner, **computed})
    if record["skipped"]:
        note(f"{analysis.name} {key} left out: {record['skipped']}")
    save_json({**record, "sha256": _hash(record)}, _path(context.folder, key))
    return record


def _all_stored(folder: Path, mark: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The records of the units that are stored, by key."""
    read = ((key, _stored(_path(folder, key), mark, key)) for key in keys)
    return {key: record for key, record in read if record is not None}


def _path(folder: Path, key: str) -> Path:
    return folder / PARTS / f"{safe(key)}.json"


def owner_of(folder: Path) -> tuple[str, str | None, str | None] | None:
    """The analysis, model and weights of a folder's units; None where none says."""
    for path in sorted((folder / PARTS).glob("*.json")):
        try:
            record = read_json(path)
            return record["analysis"], record["model"], record["weights_sha256"]
        except (FileFormatError, KeyError, TypeError):
            continue
    return None


def stored_parts(folder: Path, mark: str, keys: Sequence[str]) -> Parts:
    """The units of an earlier run; FileFormatError where one is missing, damaged or another's."""
    found = {}
    for key in keys:
        path = _path(folder, key)
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
    except (SkipError, PromptError, NothingFoundError, NumericalError) as error:
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
