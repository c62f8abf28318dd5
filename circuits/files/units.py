"""A sweep's folder: a file a unit, verified when it is read, and nothing that is shared to write.

    units/ab/<key>.kc.safetensors   a finished unit: its result, whose origin says what it is of
    runs/<name>/                    what an analysis or a benchmark found, which names its own units
    errors/<key>.json               why a unit, or a run by its name, failed; gone when it is done
    plans/<hash>.json               what was asked for, for `status`
    logs/<host>-<process>-*.jsonl   one line a unit, of each run of `kc sweep`
    models.json, whole.json         hashes of the models, and which files were found whole and have
                                    not been touched since; both may be deleted

A unit's name is the hash of what decides its result, so that two processes that do the same unit
write the same file; any number of them may work on one folder, on a network file system too.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, TextIO

import numpy as np

from circuits.base.arrays import ContentError, read_intact
from circuits.base.display import Summary
from circuits.base.errors import StoreError, UnitError
from circuits.base.origin import SUMMARY
from circuits.base.plain import plain
from circuits.base.results import Result
from circuits.base.stamps import stamped
from circuits.base.writing import atomic_write, save_json, to_json

UNIT = "unit"
"""Where a result's origin tells the unit."""
SUFFIX = ".kc.safetensors"
RUNS = "runs"
"""The folder of analyses and benchmarks."""
_DAMAGED = {"reason": "the record of this failure is damaged", "status": "failed"}
VOLATILE = ("seconds", "created", "commit")
"""What differs between two runs of the same unit, and is no part of its result."""


@dataclass(frozen=True, eq=False)
class Record(Result):
    """A unit that gives values alone, or the reason for which there are none."""

    KIND: ClassVar[str] = "sweep unit"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """What the unit is and gave."""
        return {"provenance": dict(self.provenance)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Record:
        """The inverse."""
        return cls(dict(metadata["provenance"]))

    def rows(self) -> list[dict[str, Any]]:
        """Every value with its name."""
        unit = self.provenance[UNIT]
        return [{"name": name, "value": value} for name, value in flat(unit["values"]).items()]

    def summary(self) -> Summary:
        """What the unit is, and its values."""
        unit = self.provenance[UNIT]
        facts = {"verb": unit["verb"], "model": unit["model"], **flat(unit["settings"])}
        rows = [(row["name"], str(row["value"])) for row in self.rows()]
        told = unit["left_out"] or f"{len(rows)} values"
        shown = {name: str(value) for name, value in facts.items()}
        return Summary("A unit of a sweep", shown, told, ("value", "is"), rows[:40])


@dataclass(frozen=True)
class Store:
    """The folder of a sweep."""

    folder: Path

    def path(self, key: str) -> Path:
        """A unit's file."""
        return self.folder / "units" / key[:2] / f"{key}{SUFFIX}"

    def error_path(self, key: str) -> Path:
        """Where a unit's failure is told."""
        return self.folder / "errors" / f"{key}.json"

    def unit(self, key: str) -> dict[str, Any] | None:
        """What a stored unit is and gave; None where there is none, or a damaged one."""
        return read_unit(self.path(key), key)

    def whole(self) -> set[str]:
        """Keys of all units that are stored and whole.

        A file that was read whole before and has the same size, time and place is not read again.
        """
        known_path = self.folder / "whole.json"
        try:
            known = json.loads(known_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if not isinstance(known, dict):
            known = {}
        found: dict[str, list[int]] = {}
        read = False
        for key, entry in self.files():
            mark = mark_of(entry)
            if known.get(key) != mark:
                read = True
                if read_unit(Path(entry.path), key) is None:
                    continue
            found[key] = mark
        if read or len(found) != len(known):
            atomic_write(known_path, to_json(found))
        return set(found)

    def save(self, key: str, unit: Mapping[str, Any], result: Result | None) -> None:
        """Store a unit. UnitError where it is stored already and says something else."""
        told = {UNIT: _steady(plain(unit))}
        if result is None:
            made: Any = Record(told)
        else:
            origin = {**_steady(dict(result.provenance)), **told}  # type: ignore[attr-defined]
            made = replace(result, provenance=origin)  # type: ignore[type-var]
        path = self.path(key)
        before = digest(path)
        if before is None:
            made.save(path)
            return
        other = path.with_name(f"{key}.{secrets.token_hex(4)}.other")
        made.save(other)
        if digest(other) != before:
            raise UnitError(
                f"the unit {key[:12]} came out differently than it is stored ({path}; now in "
                f"{other.name}): it is not determined by what it is named by"
            )
        other.unlink()

    def fail(self, key: str, record: Mapping[str, Any]) -> None:
        """Tell why a unit failed, and how often it was tried."""
        path = self.error_path(key)
        tries = 1
        with suppress(OSError, ValueError, KeyError, TypeError):
            tries += int(json.loads(path.read_text(encoding="utf-8"))["tries"])
        save_json(stamped("sweep-failure", {**record, "tries": tries}), path)

    def forgive(self, key: str) -> None:
        """Forget why a unit failed: it is done. StoreError where nothing can be changed there."""
        path = self.error_path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be removed: {error.strerror}") from None

    def keys(self) -> Iterator[str]:
        """Keys of all units that have a file, whole or not."""
        return (key for key, _ in self.files())

    def files(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Keys of all units that have a file, with the file."""
        units = self.folder / "units"
        for shelf in sorted(os.listdir(units)) if units.is_dir() else ():
            with os.scandir(units / shelf) as entries:
                for entry in sorted(entries, key=lambda each: each.name):
                    if entry.name.endswith(SUFFIX):
                        yield entry.name.removesuffix(SUFFIX), entry

    def errors(self) -> dict[str, dict[str, Any]]:
        """Failures by key."""
        found = {}
        for path in sorted((self.folder / "errors").glob("*.json")):
            told: Any = None
            with suppress(OSError, ValueError, RecursionError):
                told = json.loads(path.read_text(encoding="utf-8"))
            whole = isinstance(told, dict) and isinstance(told.get("reason"), str)
            found[path.stem] = told if whole else dict(_DAMAGED)
        return found

    def reports(self) -> set[str]:
        """Names of the analyses and benchmarks that have a report and did not fail since."""
        made = (path.parent.name for path in (self.folder / RUNS).glob(f"*/{SUMMARY}"))
        return {name for name in made if not self.error_path(name).exists()}

    def planned(self) -> dict[str, tuple[str, str, str]]:
        """Verb, model and label of every unit and run that was ever planned here, by key."""
        found: dict[str, tuple[str, str, str]] = {}
        for path in sorted((self.folder / "plans").glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                units = json.loads(path.read_text(encoding="utf-8"))["units"]
                found |= {
                    str(key): (str(verb), str(model), str(label))
                    for key, verb, model, label in units
                }
        return found

    def logged(self) -> Iterator[dict[str, Any]]:
        """All lines of all logs that are whole."""
        for path in sorted((self.folder / "logs").glob("*.jsonl")):
            with path.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        found = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(found, dict):
                        yield found

    def new_log(self) -> tuple[Path, TextIO]:
        """A file for this process's log, of its own, open; StoreError where there can be none."""
        logs = self.folder / "logs"
        host = "".join(char for char in platform.node() if char.isalnum())[:32]
        path = logs / f"{host}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        try:
            logs.mkdir(parents=True, exist_ok=True)
            return path, path.open("a", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from None


def mark_of(file: os.DirEntry[str] | Path) -> list[int]:
    """What tells whether a file was touched: size, time and place."""
    state = file.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ino]


def read_unit(path: Path, key: str) -> dict[str, Any] | None:
    """What the unit in a file is and gave; None where it is absent, damaged or another."""
    try:
        _, content = read_intact(path, None)
        unit = content["provenance"][UNIT]
        return dict(unit) if unit["key"] == key else None
    except (ContentError, KeyError, TypeError):
        return None


def digest(path: Path) -> str | None:
    """The hash over what a unit's file holds; None where it is absent or damaged."""
    try:
        arrays, content = read_intact(path, None)
    except ContentError:
        return None
    whole = sha256(to_json(content).encode())
    for name, array in arrays.items():
        whole.update(name.encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined with dots; lists are left out."""
    if isinstance(value, Mapping):
        parts = (flat(each, f"{name}.{key}" if name else str(key)) for key, each in value.items())
        return {key: each for part in parts for key, each in part.items()}
    return {} if isinstance(value, list | tuple) else {name: value}


def _steady(value: Any) -> Any:
    """The value without what differs from run to run."""
    if isinstance(value, Mapping):
        return {
            key: _steady(each)
            for key, each in value.items()
            if key not in VOLATILE and not str(key).startswith("seconds")
        }
    return [_steady(each) for each in value] if isinstance(value, list | tuple) else value
