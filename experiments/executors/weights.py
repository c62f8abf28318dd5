"""A folder of weights that the workers of one machine have in common, gone after them."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = f"kc-weights-{platform.node()}-"
"""What follows is the process that the folder belongs to: a number means nothing elsewhere."""


@contextmanager
def shared_weights(workers: int) -> Iterator[Path | None]:
    """Such a folder in the temporary one, where there are several workers; else None.

    Those of processes that were killed are removed first.
    """
    if workers < 2:
        yield None
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if not _lives(folder.name.removeprefix(_PREFIX).partition("-")[0]):
            remove(folder)
    shared = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        yield shared
    finally:
        remove(shared)


def remove(shared: Path | None) -> None:
    """Delete the folder; what is mapped stays with those who mapped it."""
    if shared is not None:
        shutil.rmtree(shared, ignore_errors=True)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True
