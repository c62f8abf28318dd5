"""Processes of this machine, each with its own model; one that dies is made anew.

Their models' weights are in a file, which each maps into its memory and which is gone after them.
Every process is a pool of one of the standard library's, so that a death tells which job it was.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path

from circuits.base.plugins import load_installed, load_plugin, loaded_files
from experiments.executors.base import TRIES, Executing, Job, Outcome, Status, Workplace, attempt
from experiments.executors.weights import remove, shared_weights

_place: Workplace | None = None
"""This worker's; a process has one."""


def in_processes(jobs: Sequence[Job], how: Executing) -> Iterator[Outcome]:
    """Outcomes as they come. A job whose process dies is tried again, `TRIES` times in all."""
    n_lanes = min(how.workers, len(jobs))
    with shared_weights(n_lanes) as shared:
        yield from _outcomes(jobs, [_Lane(how.share, shared) for _ in range(n_lanes)])


def _outcomes(jobs: Sequence[Job], lanes: Sequence[_Lane]) -> Iterator[Outcome]:
    waiting = deque(range(len(jobs)))
    deaths: Counter[int] = Counter()
    running: dict[Future[Outcome], tuple[_Lane, int]] = {}
    try:
        while waiting or running:
            busy = {id(lane) for lane, _ in running.values()}
            for lane in lanes:
                if waiting and id(lane) not in busy:
                    index = waiting.popleft()
                    running[lane.submit(jobs[index], index)] = (lane, index)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                lane, index = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    lane.restart()
                    deaths[index] += 1
                    if deaths[index] < TRIES:
                        waiting.appendleft(index)
                    else:
                        reason = f"its process died {TRIES} times (killed, or out of memory)"
                        yield Outcome(index, Status.CRASHED, reason=reason)
    finally:
        for lane in lanes:
            lane.kill()
        for lane in lanes:
            lane.end()


class _Lane:
    """One process at a time."""

    def __init__(self, threads: int, shared: Path | None) -> None:
        self._threads, self._shared = threads, shared
        self._open()

    def submit(self, job: Job, index: int) -> Future[Outcome]:
        """Start the job; in a new process where the one before died with nothing to do."""
        try:
            return self._pool.submit(_run, job, index)
        except BrokenProcessPool:
            self.restart()
            return self._pool.submit(_run, job, index)

    def restart(self) -> None:
        """Another process for one that died."""
        self.end()
        self._open()

    def kill(self) -> None:
        """End the process now, whatever it does; what it was writing is whole or not there.

        One that is still starting ends as soon as it is there, before it does the job it has.
        """
        self._born.add_done_callback(_kill)

    def end(self) -> None:
        """Wait for the pool of a process that was killed or died.

        One whose thread closes while the interpreter does makes it print an error in the end.
        """
        self._pool.shutdown(cancel_futures=True)

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        ready = (self._threads, loaded_files(), self._shared)
        self._pool = ProcessPoolExecutor(1, context, _begin, ready)
        self._born = self._pool.submit(os.getpid)


def _kill(born: Future[int]) -> None:
    with contextlib.suppress(OSError, CancelledError, BrokenProcessPool):
        os.kill(born.result(), signal.SIGKILL)


def _begin(threads: int, plugins: Sequence[str], shared: Path | None) -> None:
    """Make a new process ready: few threads, the same plugins, gone when its parent is."""
    global _place
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel, shared), daemon=True).start()
    load_installed()
    for path in plugins:
        load_plugin(path)
    _place = Workplace(shared)


def _follow(sentinel: int, shared: Path | None) -> None:
    connection.wait([sentinel])
    remove(shared)
    os._exit(1)


def _run(job: Job, index: int) -> Outcome:
    assert _place is not None
    return attempt(job, index, _place)
