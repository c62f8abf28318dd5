"""What a job is, what became of it, and how jobs may be run: what all executors know.

A job is a small value that any process can take up: it names its model, does one unit of work and
stores the result itself. So an executor carries no results, and what a killed process had finished
is on disk.
"""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from circuits.base.choosing import Choice
from circuits.base.errors import KnowledgeCircuitsError, OptionError, StoreError
from circuits.base.options import Options, option

if TYPE_CHECKING:
    from circuits.model.model import Model

Made = TypeVar("Made")
TRIES = 3
"""A job that took so many processes with it is not tried again."""


class ExecutorKind(Choice):
    """Where jobs run."""

    SERIAL = "serial"
    PROCESS = "process"
    RAY = "ray"


class Status(Choice):
    """What became of a job."""

    DONE = "done"
    FAILED = "failed"
    CRASHED = "crashed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """A job's end: its place in the list, seconds, and why it is not done, or found nothing.

    `STOPPED` is a disk that does not take results: no other job would end better.
    """

    index: int
    status: Status
    seconds: float = 0.0
    reason: str = ""
    trace: str = ""


@dataclass(eq=False)
class Workplace:
    """What a process keeps from one job to the next: one model, and what was made with it.

    Processes with the same folder `shared` have its weights in common.
    """

    shared: Path | None = None
    _model: tuple[tuple[str, str | None, str, str | None], Model] | None = None
    _made: dict[Any, Any] = field(default_factory=dict)

    def model(
        self, name: str, device: str | None, dtype: str, device_map: str | None = None
    ) -> Model:
        """The model; the one before makes room for it."""
        asked = (name, device, dtype, device_map)
        if self._model is None or self._model[0] != asked:
            from circuits.model.model import load

            self._model = None
            self._made.clear()
            self._model = (
                asked,
                load(name, device, dtype, shared=self.shared, device_map=device_map),
            )
        return self._model[1]

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What several jobs need, made when first asked for; forgotten with the model."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[no-any-return]


class Job(ABC):
    """One unit of work, as small as its name; it can be pickled."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What progress calls it."""

    @abstractmethod
    def run(self, place: Workplace) -> str | None:
        """Do it, and store the result; returns why nothing was found, where that is so.

        What it raises is recorded, and the others go on.
        """


@dataclass(frozen=True)
class Executing(Options):
    """How jobs are run."""

    executor: ExecutorKind = option(
        ExecutorKind.SERIAL, "Where units run: in this process, in several, or on Ray."
    )
    workers: int = option(2, "Processes, or workers of Ray.", low=1, high=100_000)
    threads: int | None = option(
        None, "Threads of each process; default: its share of the cores.", low=1, high=10_000
    )
    ray_address: str | None = option(
        None, "A running Ray cluster, auto or HOST:PORT; default: one on this machine."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray_address is not None and self.executor != ExecutorKind.RAY:
            raise OptionError("`ray_address` goes with `executor` ray")

    @property
    def share(self) -> int:
        """Threads a process may take."""
        return self.threads or max(1, cores() // self.workers)


def cores() -> int:
    """Cores that this process may use."""
    import os

    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def attempt(job: Job, index: int, place: Workplace) -> Outcome:
    """Run a job here; whatever it raises, but an interrupt, is its outcome."""
    start = time.perf_counter()
    status, reason, trace = Status.DONE, "", ""
    try:
        reason = job.run(place) or ""
    except StoreError as error:
        status, reason = Status.STOPPED, str(error)
    except KnowledgeCircuitsError as error:
        status, reason = Status.FAILED, str(error)
    except Exception as error:
        status, trace = Status.FAILED, traceback.format_exc()
        said = ": ".join(part for part in (type(error).__name__, str(error)) if part)
        reason = " ".join(said.split())
    return Outcome(index, status, round(time.perf_counter() - start, 3), reason, trace)
