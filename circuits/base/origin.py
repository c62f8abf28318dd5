"""A folder of results that appears whole or not at all, and where its numbers come from."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

from circuits.base.errors import OptionError, StoreError
from circuits.base.writing import remove_abandoned, save_json, stage_name

R = TypeVar("R")
SUMMARY = "summary.json"
PICTURES = (".svg", ".pdf", ".png")
"""Files that may be drawn again, or touched up, without being another run's."""
OBSERVED = "observed"
"""Where an origin says which rows are one observation (`locate.states.observed`)."""


def model_label(provenance: Mapping[str, Any]) -> str:
    """The model's name for a title: its `label`, or its name, of a path the last part."""
    model = str(provenance.get("label") or provenance.get("model") or "")
    is_path = model.startswith(("/", ".", "~")) or model.endswith(".gguf") or model.count("/") > 1
    return Path(model).name if is_path and not provenance.get("label") else model


def unit_of(provenance: Mapping[str, Any]) -> str:
    """What was looked at, one of it: a "fact", or a "pair" of a file, a task, or one fact's."""
    is_pair = OBSERVED in provenance or "lines" in (provenance.get("counts") or {})
    return "pair" if is_pair else "fact"


def relabelled(result: R, label: str | None) -> R:
    """A result whose origin, and that of each result it holds, gives the model this label.

    The model's own name stays beside it; None changes nothing.
    """
    if label is None or not is_dataclass(result) or isinstance(result, type):
        return result
    changed: dict[str, Any] = {}
    for each in fields(result):
        value = getattr(result, each.name)
        if each.name == "provenance" and isinstance(value, Mapping):
            changed[each.name] = {**value, "label": label}
        elif isinstance(value, tuple) and any(hasattr(one, "provenance") for one in value):
            changed[each.name] = tuple(relabelled(one, label) for one in value)
        elif hasattr(value, "provenance"):
            changed[each.name] = relabelled(value, label)
    return replace(result, **changed) if changed else result


def check_writable(
    directory: Path, inputs: Iterable[Path | str | None] = (), names: Iterable[str] = ()
) -> None:
    """StoreError, before any work is done, where results could not be written there.

    OptionError where one of the files that are read stands in that very folder: a file of that
    name might be written or removed. OptionError too where a file has one of the `names` that may
    be written and no earlier run lists it: it is the user's.
    """
    for path in inputs:
        if path is not None and Path(path).exists() and _holds(directory, Path(path)):
            raise OptionError(
                f"{path} is read and stands in `out` {directory}; name another folder"
            )
    if directory.exists() and not directory.is_dir():
        raise StoreError(f"`out` {directory} is a file; name a folder")
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise StoreError(f"`out` {directory} cannot be written: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(f"`out` {directory} cannot be written: no permission in {nearest}")
    ours = listed(directory)
    for name in names:
        if name not in ours and (directory / name).is_file():
            raise OptionError(
                f"`out` {directory} holds a file {name} that no {SUMMARY} there lists as this "
                "program's; it is kept: name another folder"
            )


def _holds(directory: Path, path: Path) -> bool:
    return directory.resolve() in (path.resolve().parent, path.absolute().parent.resolve())


def listed(directory: Path) -> set[str]:
    """Names of the files that an earlier run's summary says it wrote there, as `tables/a.parquet`.

    A report lists its own under `written`, by their places in the folder.
    """
    files, written = (_summary(directory).get(key) for key in ("files", "written"))
    texts = (each if isinstance(each, list) else [] for each in (files, written))
    flat, placed = ([name for name in each if isinstance(name, str)] for each in texts)
    return {Path(name).name for name in flat} | set(placed)


def _summary(directory: Path) -> Mapping[str, Any]:
    """What the summary in a folder says; nothing where there is none that can be read."""
    try:
        content = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def mixed(directory: Path) -> str | None:
    """A line where a folder's files are not those that its summary was written with.

    So it is where a run was killed between two files, or a file was exchanged. Pictures do not
    count; a summary without hashes (an older one) says nothing.
    """
    hashes = _summary(directory).get("sha256")
    if not isinstance(hashes, Mapping):
        return None
    wrong = [name for name, known in hashes.items() if _hash(directory / Path(name).name) != known]
    if not wrong:
        return None
    names = ", ".join(wrong)
    return f"{directory} holds files of different runs: {SUMMARY} was written with other {names}"


def _hash(path: Path) -> str | None:
    """sha256 of a regular file's bytes; None where there is none."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@contextmanager
def staged(directory: Path, owned: Iterable[str] = ()) -> Iterator[Path]:
    """A new folder whose files move to `directory` when the block ends without an exception.

    Files in folders within it move to such folders there, beside what these hold.

    An exception, Ctrl-C or a full disk leaves `directory` as it was, or absent. Of files that are
    there, those named in `owned` go that an earlier run's `summary.json` lists and this run has
    not: no earlier run's file stands beside this one's. All others stay. Of two
    runs into one directory the later one's files are there.
    """
    check_writable(directory)
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_abandoned(directory)
        stage = directory / stage_name()
        stage.mkdir(mode=0o700)
    except OSError as error:
        raise StoreError(f"`out` {directory} cannot be written: {error.strerror}") from None
    done = False
    try:
        yield stage
        made = _files_in(stage)
        for path in made:
            if (directory / path).is_dir():
                raise StoreError(f"`out` {directory} cannot be written: {path} is a folder")
            if wrong := [each for each in path.parents if (directory / each).is_file()]:
                raise StoreError(f"`out` {directory} cannot be written: {wrong[0]} is a file")
        with _locked(directory):
            earlier = set(owned) & listed(directory)
            for name in earlier - {path.as_posix() for path in made}:
                (directory / name).unlink(missing_ok=True)
            # The summary first: should the rest not follow, it tells of files that are not there.
            for path in sorted(made, key=lambda path: path != Path(SUMMARY)):
                (directory / path).parent.mkdir(exist_ok=True, parents=True)
                os.replace(stage / path, directory / path)
        done = True
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"`out` {directory} cannot be written: {reason}") from None
    except StoreError as error:  # name the place that the user knows
        raise StoreError(str(error).replace(str(stage), str(directory))) from None
    finally:
        rmtree(stage, ignore_errors=True)
        if is_new and not done:
            with suppress(OSError):  # another run may have written there in the meantime
                directory.rmdir()


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder and of those within it, by their places there, in order."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())


def write_all(
    folder: Path, writers: Mapping[str, Callable[[Path], Any]], owned: Iterable[str] = ()
) -> list[Path]:
    """Have every file written, then put all into the folder; returns their paths there.

    Files of the names in `owned` that an earlier run left and this one does not write go, and a
    file of the user's is never replaced (`check_writable`). A summary among the files gets to list
    them, with hashes (`mixed`).
    """
    check_writable(folder, (), writers)
    with staged(folder, owned) as stage:
        for name, write in writers.items():
            write(stage / name)
        if lost := [name for name in writers if not (stage / name).exists()]:
            raise StoreError(f"{folder / lost[0]} vanished while it was written")
        if SUMMARY in writers:
            others = [name for name in writers if name != SUMMARY]
            hashes = {n: _hash(stage / n) for n in others if Path(n).suffix not in PICTURES}
            listed = {"files": [str(folder / name) for name in writers], "sha256": hashes}
            save_json({**_summary(stage), **listed}, stage / SUMMARY)
    return [folder / name for name in writers]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Within the block no other run moves files there; no lock where the system has none."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def timestamp() -> str:
    """Now in UTC; SOURCE_DATE_EPOCH, where set, makes files reproducible byte for byte."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        return datetime.fromtimestamp(float(given), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # unset, or no time at all
        return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")


def code_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `+` where it was changed since.

    None for an installed package.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.csv")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
