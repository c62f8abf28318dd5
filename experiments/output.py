"""A folder of results that appears whole or not at all, and where its numbers come from."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from circuits.errors import StoreError


def check_writable(directory: Path) -> None:
    """StoreError, before any work is done, where results could not be written there."""
    if directory.exists() and not directory.is_dir():
        raise StoreError(f"--out {directory} is a file; name a folder")
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(f"--out {directory} cannot be written: no permission in {nearest}")


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A new folder whose files move to `directory` when the block ends without an exception.

    An exception, Ctrl-C or a full disk leaves `directory` as it was. Files of other names that are
    there stay.
    """
    check_writable(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stage = Path(mkdtemp(prefix=".kc-", suffix=".tmp", dir=directory))
    except OSError as error:
        raise StoreError(f"--out {directory} cannot be written: {error.strerror}") from None
    try:
        yield stage
        for path in sorted(stage.iterdir()):
            os.replace(path, directory / path.name)
    except OSError as error:
        raise StoreError(f"--out {directory} cannot be written: {error.strerror}") from None
    finally:
        rmtree(stage, ignore_errors=True)


def timestamp() -> str:
    """Now in UTC; SOURCE_DATE_EPOCH, where set, makes files reproducible byte for byte."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def code_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `+` where it was changed since.

    None for an installed package.
    """
    root = Path(__file__).resolve().parent.parent
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
