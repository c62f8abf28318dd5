"""The streams of a command, which work is never stopped for: without a reader they swallow all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any


class Unheard:
    """A stream that goes on without its reader, as of `kc ... 2>&1 | head -1`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as far as anybody reads; errors other than a closed pipe are raised."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Send what was written, as `write` does."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()
            self._stream.flush()

    def _discard(self) -> None:
        """What was not sent yet goes to nowhere too: Python sends it when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def open_streams() -> Iterator[None]:
    """Within the block stdout and stderr take what is written, whoever reads it.

    A process that was started without them has some that swallow everything.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")  # letters it does not have
    out: Any = Unheard(sys.stdout)
    err: Any = Unheard(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            for each in (out, err):  # while a missing reader is no error yet
                with suppress(OSError, ValueError):
                    each.flush()
