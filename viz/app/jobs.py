"""One job at a time, in a thread of its own, with progress and a way to stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.base.progress import Progress, stopping

KEPT = 20


class JobCancelledError(Exception):
    """Raised inside a job at its next step or module, once it has been told to stop."""


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands: `running`, `done`, `failed` or `cancelled`; an error is one line."""

    key: str
    title: str
    state: str
    stage: str
    done: int
    total: int
    seconds: float
    error: str = ""


class _Job:
    def __init__(self, key: str, title: str) -> None:
        self.key, self.title = key, title
        self.state, self.stage, self.error = "running", "", ""
        self.done = self.total = 0
        self.start, self.end = time.monotonic(), 0.0
        self.value: Any = None
        self.stop = threading.Event()


class Jobs:
    """Runs jobs by key; what takes the model holds `model_lock`, as an edit changes weights."""

    def __init__(self) -> None:
        self.model_lock = threading.RLock()
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()

    def start(self, key: str, title: str, work: Callable[[Stage], Any]) -> list[str]:
        """Begin a job; a key that runs or is done already is not run again.

        Returns the keys of the jobs that are kept no longer. OptionError where another job is
        running.
        """
        with self._lock:
            known = self._jobs.get(key)
            if known is not None and known.state in ("running", "done"):
                return []
            busy = next((job for job in self._jobs.values() if job.state == "running"), None)
            if busy is not None:
                raise OptionError(f"busy with another job ({busy.title}); cancel it or wait")
            job = _Job(key, title)
            self._jobs.pop(key, None)
            self._jobs[key] = job
            dropped = list(self._jobs)[:-KEPT]
            for old in dropped:
                del self._jobs[old]
        threading.Thread(target=self._run, args=(job, work), daemon=True, name="kc-job").start()
        return dropped

    def status(self, key: str) -> JobStatus | None:
        """Where a job stands; None where none of this key was started."""
        job = self._jobs.get(key)
        if job is None:
            return None
        seconds = (job.end or time.monotonic()) - job.start
        return JobStatus(
            key, job.title, job.state, job.stage, job.done, job.total, seconds, job.error
        )

    def value(self, key: str) -> Any:
        """What a job that is done returned; None for any other."""
        job = self._jobs.get(key)
        return job.value if job is not None and job.state == "done" else None

    def cancel(self, key: str) -> None:
        """Tell a job to stop at its next step or module."""
        job = self._jobs.get(key)
        if job is not None:
            job.stop.set()

    def _run(self, job: _Job, work: Callable[[Stage], Any]) -> None:
        try:
            stage = Stage(job)
            with self.model_lock, stopping(stage.check), _in_every_module(stage.check):
                job.value = work(stage)
            job.state = "done"
        except JobCancelledError:
            job.error, job.state = "cancelled", "cancelled"
        except KnowledgeCircuitsError as error:
            job.error, job.state = str(error), "failed"
        except Exception as error:  # the app lives on, whatever a job does
            job.error = f"unexpected {type(error).__name__}: {error}"
            job.state = "failed"
        finally:
            job.end = time.monotonic()


@contextmanager
def _in_every_module(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each module that this thread runs: a batch may take many seconds."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    own = threading.get_ident()

    def begun(module: Any, inputs: Any) -> None:
        if threading.get_ident() == own:
            check()

    handle = register_module_forward_pre_hook(begun)
    try:
        yield
    finally:
        handle.remove()


class Stage:
    """What a job reports through, and where it learns that it is to stop."""

    def __init__(self, job: _Job) -> None:
        self._job = job

    def __call__(self, title: str) -> Progress:
        """Begin a stage of this title; returns what to call with (done, in all)."""
        self._job.stage, self._job.done, self._job.total = title, 0, 0
        self.check()

        def progress(done: int, total: int) -> None:
            self._job.done, self._job.total = done, total
            self.check()

        return progress

    @contextmanager
    def during(self, title: str) -> Iterator[Progress]:
        """The same for what reports in stages."""
        yield self(title)

    def check(self) -> None:
        """Raise where the job is to stop."""
        if self._job.stop.is_set():
            raise JobCancelledError
