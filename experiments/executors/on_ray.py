"""Workers of a Ray cluster, one actor a GPU or a share of the cores, each with its own model.

Without an address Ray starts on this machine alone: on the loopback interface, without dashboard
and usage reports. A cluster of several machines is joined by its address; its nodes must see the
sweep's folder under the same path, and `RAY_AUTH_MODE=token` keeps others out of it.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from circuits.base.errors import MissingExtraError, OptionError, UnitError
from circuits.base.plugins import load_installed, load_plugin, loaded_files
from experiments.executors.base import TRIES, Executing, Job, Outcome, Status, Workplace, attempt
from experiments.executors.weights import shared_weights

STORE_BYTES = 100 * 2**20
"""Ray's own memory on this machine; results go to disk and need none of it."""
_QUIET = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray leaves the loopback interface on Linux
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


class Worker:
    """An actor: a process of its own with a model."""

    def __init__(self, threads: int, plugins: Sequence[str], shared: Path | None) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
        load_installed()
        for path in plugins:
            load_plugin(path)
        self.place = Workplace(shared)

    def ready(self) -> bool:
        """Answers as soon as the worker is there."""
        return True

    def run(self, job: Job, index: int) -> Outcome:
        """What became of the job."""
        return attempt(job, index, self.place)


def on_ray(jobs: Sequence[Job], how: Executing) -> Iterator[Outcome]:
    """Outcomes as they come. A job whose worker dies is tried again, `TRIES` times in all.

    Workers of this machine alone have their weights in common; those of a cluster have their own.
    """
    n_workers = min(how.workers, len(jobs))
    with shared_weights(n_workers if how.ray_address is None else 1) as shared:
        yield from _outcomes(jobs, how, n_workers, shared)


def _outcomes(
    jobs: Sequence[Job], how: Executing, n_workers: int, shared: Path | None
) -> Iterator[Outcome]:
    ray = _started(how)
    waiting = deque(range(len(jobs)))
    deaths: Counter[int] = Counter()
    make = _maker(ray, how, shared)
    starting = [make() for _ in range(n_workers)]
    begun = {actor.ready.remote(): actor for actor in starting}
    idle: list[Any] = []
    running: dict[Any, tuple[Any, int]] = {}
    failed = 0
    try:
        while waiting or running:
            while waiting and idle:
                actor, index = idle.pop(), waiting.popleft()
                running[actor.run.remote(jobs[index], index)] = (actor, index)
            # A worker that waits for a machine gets no job: those that there are do them all.
            (done, *_), _ = ray.wait([*running, *begun], num_returns=1)
            if done in begun:
                actor = begun.pop(done)
                try:
                    ray.get(done)
                    idle.append(actor)
                except ray.exceptions.RayError as error:
                    failed += 1
                    if failed >= TRIES * how.workers:
                        reason = " ".join(str(error).split())
                        raise UnitError(f"workers do not start: {reason:.200}") from None
                    actor = make()
                    begun[actor.ready.remote()] = actor
                continue
            actor, index = running.pop(done)
            try:
                outcome = ray.get(done)
                idle.append(actor)
            except ray.exceptions.RayActorError:
                actor = make()
                begun[actor.ready.remote()] = actor
                deaths[index] += 1
                if deaths[index] < TRIES:
                    waiting.appendleft(index)
                    continue
                reason = f"its worker died {TRIES} times (killed, or out of memory)"
                outcome = Outcome(index, Status.CRASHED, reason=reason)
            yield outcome
    finally:
        ray.shutdown()


def _started(how: Executing) -> Any:
    """Ray, connected to its cluster or started here. MissingExtraError without it."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "`executor` ray needs the extra `ray`: pip install 'knowledge-circuits[ray]'"
        ) from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if how.ray_address is None:
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        options |= {"num_cpus": how.workers, "address": "local"}  # never one that happens to run
    else:
        options["address"] = how.ray_address
    try:
        ray.init(ignore_reinit_error=True, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(
            f"no Ray cluster at {how.ray_address or 'this machine'}: {reason:.200}"
        ) from None
    return ray


def _maker(ray: Any, how: Executing, shared: Path | None) -> Any:
    """A function that makes a worker: a GPU for each where the cluster has any."""
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker)
    return lambda: kind.remote(how.share, loaded_files(), shared)
