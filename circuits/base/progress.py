"""How far a long computation has come, told to whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""
Stages = Callable[[str], AbstractContextManager[Progress]]
"""Opens a stage of this title; within the block its progress may be reported."""


@contextmanager
def silent(title: str) -> Iterator[Progress]:
    """Stages that nobody watches."""
    yield lambda done, total: None
