"""How far a long computation has come, told to whoever wants to know, and whether it is to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""
Stages = Callable[[str], AbstractContextManager[Progress]]
"""Opens a stage of this title; within the block its progress may be reported."""


@contextmanager
def silent(title: str) -> Iterator[Progress]:
    """Stages that nobody watches."""
    yield lambda done, total: None


_stop: ContextVar[Callable[[], None] | None] = ContextVar("stop", default=None)


@contextmanager
def stopping(check: Callable[[], None]) -> Iterator[None]:
    """Within the block whatever runs a model calls `check` before each run; it may raise."""
    token = _stop.set(check)
    try:
        yield
    finally:
        _stop.reset(token)


def stop_here() -> None:
    """A place where a computation may be stopped without leaving anything half done."""
    check = _stop.get()
    if check is not None:
        check()
