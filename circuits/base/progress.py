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


def lasting(seconds: float) -> str:
    """A time span in words."""
    if seconds != seconds:
        return "unknown time"
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}s"
    return f"{seconds:.0f} seconds"


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
