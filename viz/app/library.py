"""The results that the app shows: a list made by the server, and the only door to their files.

A browser names a result by an id from that list, never by a path. A file is opened only where it
still is a regular file below the folder, without a link on the way, and below a size cap. What is
damaged stays in the list and says why.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any

from circuits.base.arrays import describe_file
from circuits.base.errors import FileFormatError, KnowledgeCircuitsError, OptionError
from circuits.base.origin import SUMMARY, mixed
from circuits.base.records import read_json
from circuits.edits.provenance import changed, identity
from circuits.files.kinds import DAMAGED, KINDS, OTHER, REPORT, SWEEP, Kind, find_kind, named
from circuits.files.sweep import is_sweep, mark_text, unit_files
from circuits.files.units import SUFFIX, Store
from viz.sweeps import SweepReader

MAX_BYTES = 64 * 2**20
MAX_FILES = 2000
MAX_DEPTH = 8
KEPT_OPEN = 12
"""Files that stay open once they were read."""
PAGE = "report.html"
"""The page of an analysis, beside its summary."""
OF_SWEEPS = ("units", "errors", "plans", "logs")
"""Folders of a sweep whose files are no lines of the list."""


@dataclass(frozen=True, eq=False)
class Record:
    """A file that has no page of its own: what it says about itself."""

    kind: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One line of the list; `name` is the path below the folder, or what a live result is called.

    `error` says why a damaged file cannot be shown. `run` is the folder that one command wrote the
    file into, "." for the whole of `home`; empty where no summary says so.
    """

    id: str
    name: str
    kind: Kind
    about: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    live: bool = False
    run: str = ""
    home: str = ""


class Library:
    """The results below a folder, and those made while the app runs."""

    def __init__(self, root: Path | None, max_bytes: int = MAX_BYTES) -> None:
        self.root = None if root is None else root.resolve()
        self.max_bytes = max_bytes
        self.n_found = 0
        self._entries: dict[str, Entry] = {}
        self._live: dict[str, tuple[Entry, Any]] = {}
        self._sweeps: dict[str, tuple[Entry, SweepReader]] = {}
        self._units: dict[str, Entry] = {}
        self._reports: dict[str, Entry] = {}
        self._open: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
        self._lock = RLock()

    def entries(self) -> list[Entry]:
        """Look at the folder again; live results first, then sweeps, then by kind and name."""
        found = list(self._found()) if self.root is not None else []
        with self._lock:
            known = self._entries
            self._entries = {
                entry.id: replace(known[entry.id], run=entry.run)
                if _same(known.get(entry.id), entry)
                else self._read(entry)
                for entry in found
            }
            live = [entry for entry, _ in reversed(self._live.values())]
            live += [entry for entry, _ in self._sweeps.values()]
            live += self._reports.values()
            files = sorted(
                self._entries.values(), key=lambda entry: (_place(entry.kind), entry.name)
            )
            return [*live, *files]

    def entry(self, result: str) -> Entry:
        """The entry of an id; OptionError where the server gave out no such id."""
        with self._lock:
            if result in self._live:
                return self._live[result][0]
            if result in self._units and self._untouched(self._units[result]):
                return self._units[result]
            if not any(result in each for each in (self._entries, self._sweeps, self._reports)):
                self.entries()
            if result in self._sweeps:
                return self._sweeps[result][0]
            if result in self._reports:
                return self._reports[result]
            if result in self._entries:
                return self._entries[result]
            return self._unit(result)

    def sweep(self, result: str) -> SweepReader:
        """The units of a sweep; OptionError where the server gave out no such id for one."""
        entry = self.entry(result)
        if entry.kind is not SWEEP:
            raise OptionError(f"{entry.name} is no sweep")
        return self._sweeps[result][1]

    def report(self, result: str) -> tuple[dict[str, Any], str]:
        """The summary of an analysis and its page; FileFormatError where they cannot be read."""
        entry = self.entry(result)
        if entry.kind is not REPORT:
            raise OptionError(f"{entry.name} is no report")
        path = self._checked(Path(entry.name) / PAGE)
        summary = self._json(Path(entry.name) / SUMMARY)
        try:
            return summary, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(entry.name, f"its page cannot be read: {error}") from None

    def unit_id(self, sweep: str, key: str) -> str:
        """The id of a sweep's unit, which opens its file like any result's."""
        assert self.root is not None, "a sweep has a folder"
        path = Store(self.sweep(sweep).folder).path(key)
        return _id(path.relative_to(self.root).as_posix())

    def _untouched(self, unit: Entry) -> bool:
        """Whether a sweep's unit is as it was when it was last opened."""
        assert self.root is not None, "a sweep has a folder"
        try:
            return bool(mark_text(self.root / unit.name) == unit.about["stamp"])
        except OSError:
            return False

    def _unit(self, result: str) -> Entry:
        """The entry of a sweep's unit, which the list does not have."""
        for _, reader in self._sweeps.values():
            assert self.root is not None, "a sweep has a folder"
            for _, path, mark in unit_files(reader.folder):
                name = path.relative_to(self.root).as_posix()
                if _id(name) == result:
                    entry = self._read(Entry(result, name, OTHER, {"stamp": mark}))
                    self._units[result] = entry
                    return entry
        raise OptionError("there is no such result in this folder")

    def add(self, key: str, name: str, kind: Kind, value: Any, about: Mapping[str, Any]) -> Entry:
        """Keep a result that was made here until its `key` is forgotten; `name` is what is shown.

        The same key takes the place of an earlier one.
        """
        entry = Entry(_live_id(key), name, kind, dict(about), live=True)
        with self._lock:
            self._live.pop(entry.id, None)
            self._live[entry.id] = (entry, value)
        return entry

    def forget(self, key: str) -> None:
        """Keep the result of this key no longer, where there is one."""
        with self._lock:
            self._live.pop(_live_id(key), None)

    def value(self, result: str) -> Any:
        """The result itself; a KnowledgeCircuitsError says why a file cannot be opened."""
        entry = self.entry(result)
        if entry.live:
            with self._lock:
                return self._live[result][1]
        path = self._path(entry)
        try:
            status = path.stat()
        except OSError:
            raise FileFormatError(entry.name, "no such file") from None
        key = (result, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        try:
            value = _load(entry.kind, path)
        except KnowledgeCircuitsError as error:
            # The name below the folder is all that a page needs to say.
            raise FileFormatError(entry.name, str(error).removeprefix(f"{path}: ")) from None
        with self._lock:
            self._open[key] = value
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return value

    def record(self, result: str, name: str = SUMMARY) -> dict[str, Any]:
        """A JSON object beside the result; empty where there is none that can be read."""
        entry = self.entry(result)
        if entry.live or self.root is None or Path(name).name != name:
            return {}
        return self._json(Path(entry.name).parent / name)

    def _json(self, relative: Path) -> dict[str, Any]:
        """A JSON object of a file below the folder; empty where there is none to be read."""
        try:
            value = read_json(self._checked(relative), self.max_bytes)
        except KnowledgeCircuitsError:
            return {}
        return value if isinstance(value, dict) else {}

    def mixed(self, entry: Entry) -> str | None:
        """A line where the files of the result's folder are of different runs."""
        if entry.live or self.root is None or entry.kind is REPORT:
            return None
        folder = Path(entry.name).parent
        line = mixed(self.root / folder)
        return line and line.replace(str(self.root / folder), f"the folder {folder}", 1)

    def _read(self, entry: Entry) -> Entry:
        """The entry with what the file's header says; damaged where it cannot be opened."""
        try:
            kind, content = describe_file(self._path(entry))
            about = {**entry.about, **about_content(content)}
        except FileFormatError as error:
            # What the message begins with is the path: the list names it already.
            return replace(entry, kind=DAMAGED, error=str(error).partition(": ")[2])
        except Exception as error:  # one poisoned file must not take the list down
            return replace(entry, kind=DAMAGED, error=f"is damaged: {type(error).__name__}")
        return replace(entry, kind=find_kind(kind), about=about)

    def _path(self, entry: Entry) -> Path:
        return self._checked(Path(entry.name))

    def _checked(self, relative: Path) -> Path:
        """The file below the folder; FileFormatError for whatever must not be opened."""
        assert self.root is not None, "live results have no file"
        try:
            path = self.root / relative
            if path.resolve(strict=True) != path or not path.is_relative_to(self.root):
                raise FileFormatError(relative, "is a link or lies outside the folder")
            status = path.lstat()
        except (OSError, ValueError, RuntimeError):
            raise FileFormatError(relative, "no such file") from None
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(relative, "is not a regular file")
        if status.st_size > self.max_bytes:
            size, most = status.st_size / 2**20, self.max_bytes / 2**20
            raise FileFormatError(relative, f"is {size:.0f} MiB; at most {most:.0f} are opened")
        return path

    def _found(self) -> Iterator[Entry]:
        """Files that may be results, no links; the first `MAX_FILES`, but all are counted."""
        assert self.root is not None
        count = 0
        sweeps: dict[str, tuple[Entry, SweepReader]] = {}
        reports: dict[str, Entry] = {}
        for folder, folders, files in os.walk(self.root, followlinks=False):
            place = Path(folder)
            depth = len(place.relative_to(self.root).parts)
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and depth < MAX_DEPTH
            )
            if is_sweep(place):
                folders[:] = [name for name in folders if name not in OF_SWEEPS]
                entry = self._sweep(place)
                reader = self._sweeps.get(entry.id, (entry, SweepReader(place)))[1]
                sweeps[entry.id] = entry, reader
            run = place.relative_to(self.root).as_posix() if SUMMARY in files else ""
            if run and PAGE in files and not is_sweep(place):
                report = self._report(run)
                reports[report.id] = report
            for name in sorted(files):
                path = place / name
                if not name.endswith(SUFFIX) or path.is_symlink():
                    continue
                relative = path.relative_to(self.root).as_posix()
                try:
                    status = path.lstat()
                    relative.encode()
                except (OSError, UnicodeEncodeError):
                    continue
                stamp = {"stamp": (status.st_mtime_ns, status.st_size)}
                count += 1
                if count <= MAX_FILES:
                    home = self.root.name
                    yield Entry(_id(relative), relative, OTHER, stamp, run=run, home=home)
        self.n_found = count + len(sweeps) + len(reports)
        self._sweeps, self._reports = sweeps, reports

    def _report(self, run: str) -> Entry:
        """One line for an analysis: what its summary says it asked, and of which model."""
        assert self.root is not None, "a report has a folder"
        key = _id(f"report:{run}")
        try:
            mark = (self.root / run / SUMMARY).stat().st_mtime_ns
        except OSError:
            mark = 0
        known = self._reports.get(key)
        if known is not None and known.about["stamp"] == mark:
            return known
        summary = self._json(Path(run) / SUMMARY)
        origin = summary.get("provenance")
        about: dict[str, Any] = {"stamp": mark}
        about |= {
            name: text[:200]
            for name, text in (
                ("model", summary.get("model")),
                ("relation", summary.get("question")),
                ("method", summary.get("analysis")),
                ("created", origin.get("created") if isinstance(origin, Mapping) else None),
            )
            if isinstance(text, str)
        }
        return Entry(key, run, REPORT, about, run=run, home=self.root.name)

    def _sweep(self, place: Path) -> Entry:
        """One line for a whole sweep."""
        assert self.root is not None, "a sweep has a folder"
        relative = place.relative_to(self.root).as_posix()
        name = self.root.name if relative == "." else relative
        return Entry(_id(f"sweep:{relative}"), name, SWEEP)


def _id(name: str) -> str:
    """The same for the same file in every run, so that links stay good."""
    return sha256(name.encode()).hexdigest()[:12]


def _live_id(key: str) -> str:
    return _id(f"live:{key}")


def _same(known: Entry | None, found: Entry) -> bool:
    return known is not None and known.about.get("stamp") == found.about["stamp"]


def about_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Model, relation, method, size and faithfulness, where metadata name them."""
    sources = [content, content.get("provenance"), content.get("before"), content.get("comparison")]
    prompts = content.get("prompts")
    sources += prompts[:1] if isinstance(prompts, list) else []
    flat: dict[str, Any] = {}
    for source in sources:
        if not isinstance(source, Mapping):
            continue
        inner = source.get("before", source)
        for part in (source, source.get("provenance"), inner):
            nested = part.get("provenance") if isinstance(part, Mapping) else None
            for each in (part, nested):
                if isinstance(each, Mapping):
                    flat = {**each, **flat}
    about: dict[str, Any] = {}
    for name in ("model", "relation", "method", "created"):
        if isinstance(flat.get(name), str):
            about[name] = flat[name][:200]
    if isinstance(content.get("prompt"), str):
        about["relation"] = content["prompt"][:200]
    origin = content.get("provenance")
    edit = origin.get("edit", origin) if isinstance(origin, Mapping) else None
    if told := changed(edit):
        about |= {"relation": told[:200], "edit": identity(edit)}
    for name, key in (("size", "n_edges"), ("faithfulness", "faithfulness")):
        if isinstance(flat.get(key), int | float) and not isinstance(flat.get(key), bool):
            about[name] = flat[key]
    return about


def _load(kind: Kind, path: Path) -> Any:
    """The result in a file; what the file says of itself where it has no page of its own."""
    if kind.holds is None or kind.view == "record":
        return Record(*describe_file(path))
    return named(kind.holds).load(path)


def _place(kind: Kind) -> int:
    """Where a kind stands in the list: as in the table, then other files, then damaged ones."""
    order = [SWEEP.name, REPORT.name, *KINDS, OTHER.name, DAMAGED.name]
    return order.index(kind.name)
