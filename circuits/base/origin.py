"""A folder of results that appears whole or not at all, and where its numbers come from."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from circuits.base.errors import StoreError


def check_writable(directory: Path) -> None:
    """StoreError, before any work is done, where results could not be written there."""
    if directory.exists() and not directory.is_dir():
        raise StoreError(f"--out {directory} is a file; name a folder")
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise StoreError(f"--out {directory} cannot be written: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(f"--out {directory} cannot be written: no permission in {nearest}")


@contextmanager
def staged(directory: Path, owned: Iterable[str] = ()) -> Iterator[Path]:
    """A new folder whose files move to `directory` when the block ends without an exception.

    An exception, Ctrl-C or a full disk leaves `directory` as it was, or absent. Of files that are
    there, those named in `owned` go, where this run has none of that name: no earlier run's file
    stands beside this one's. All others stay. Of two runs into one directory the later one's files
    are there.
    """
    check_writable(directory)
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stage = Path(mkdtemp(prefix=".kc-", suffix=".tmp", dir=directory))
    except OSError as error:
        raise StoreError(f"--out {directory} cannot be written: {error.strerror}") from None
    done = False
    try:
        yield stage
        made = sorted(stage.iterdir())
        for path in made:
            if (directory / path.name).is_dir():
                raise StoreError(f"--out {directory} cannot be written: {path.name} is a folder")
        with _locked(directory):
            for name in set(owned) - {path.name for path in made}:
                (directory / name).unlink(missing_ok=True)
            for path in made:
                os.replace(path, directory / path.name)
        done = True
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"--out {directory} cannot be written: {reason}") from None
    except StoreError as error:  # name the place that the user knows
        raise StoreError(str(error).replace(str(stage), str(directory))) from None
    finally:
        rmtree(stage, ignore_errors=True)
        if is_new and not done:
            with suppress(OSError):  # another run may have written there in the meantime
                directory.rmdir()


def write_all(
    folder: Path, writers: Mapping[str, Callable[[Path], Any]], owned: Iterable[str] = ()
) -> list[Path]:
    """Have every file written, then put all into the folder; returns their paths there.

    Files of the names in `owned` that an earlier run left and this one does not write go.
    """
    with staged(folder, owned) as stage:
        for name, write in writers.items():
            write(stage / name)
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
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


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
