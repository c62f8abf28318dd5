"""Writing files whole or not at all, and JSON that any parser reads."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from circuits.base.errors import NumericalError, StoreError


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8, missing folders are made.

    The bytes go to a temporary file in the same folder, reach the disk, and take the final name in
    one step, so that no reader and no crash ever sees half a file. StoreError (disk full, folder
    read-only, ...) leaves an existing file as it was; a directory or device is never replaced.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.parent / stage_name()
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"{path}: cannot be written: is not a regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from None
    _sync_directory(path.parent)


def usual_mode(folder: Path) -> int:
    """Permissions that new files get there, as the user's umask has them."""
    probe = folder / stage_name()
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)


def stage_name() -> str:
    """A name for what is being written, by machine and process, beside where it will be."""
    return f"{_stages()}{os.getpid()}-{secrets.token_hex(8)}.tmp"


def remove_abandoned(directory: Path) -> None:
    """Remove what processes that were killed left half written in a folder.

    What is another machine's may be in use.
    """
    for stage in directory.glob(f"{_stages()}*.tmp"):
        process = stage.name.removeprefix(_stages()).partition("-")[0]
        if process.isdigit() and not _is_running(int(process)):
            if stage.is_dir():
                rmtree(stage, ignore_errors=True)
            else:
                stage.unlink(missing_ok=True)


@cache
def _stages() -> str:
    """How the names of this machine's stages begin."""
    return f".kc-{re.sub('[^A-Za-z0-9]', '', platform.node())[:32]}-"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's
        return True
    return True


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text; NumericalError for NaN or infinity. Paths, enums and numpy scalars are plain."""
    try:
        if indent is None:
            return _compact().encode(value)
        return json.dumps(value, allow_nan=False, indent=indent, default=_plain)
    except ValueError:
        place = _not_finite(value)
        if place is None:
            raise
        raise NumericalError(f"{place or 'the value'} is NaN or infinite") from None


@cache
def _compact() -> json.JSONEncoder:
    """Made once: `json.dumps` makes one each time."""
    return json.JSONEncoder(allow_nan=False, default=_plain)


def save_json(value: Any, path: str | Path) -> None:
    """Write JSON atomically; NumericalError for NaN or infinity, which JSON does not know."""
    try:
        text = to_json(value, indent=2)
    except NumericalError as error:
        raise NumericalError(f"{path}: not written: {error}") from None
    atomic_write(path, text + "\n")


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, lists as words; columns are all keys in order of appearance."""
    buffer = io.StringIO()
    names = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _words(value) for name, value in row.items()})
    return buffer.getvalue()


def _words(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _not_finite(value: Any, place: str = "") -> str | None:
    if isinstance(value, float | np.floating):
        return None if math.isfinite(value) else place
    if isinstance(value, Mapping):
        items = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    else:
        return None
    found = (_not_finite(item, where) for where, item in items)
    return next((where for where in found if where is not None), None)


def _sync_directory(directory: Path) -> None:
    """Make the new name durable; a file system without this ability is no error."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
