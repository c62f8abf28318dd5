"""Run jobs where the user wants them run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from circuits.base.errors import StoreError
from experiments.executors.base import (
    Executing,
    ExecutorKind,
    Job,
    Outcome,
    Status,
    Workplace,
    attempt,
)

Report = Callable[[Outcome], Any]


def execute(jobs: Sequence[Job], how: Executing, report: Report = lambda outcome: None) -> None:
    """Run every job; `report` is told of each as it ends, in whatever order that is.

    StoreError as soon as results cannot be stored; what runs then is left to be done again.
    """
    for outcome in _outcomes(jobs, how):
        if outcome.status == Status.STOPPED:
            raise StoreError(outcome.reason)
        report(outcome)


def _outcomes(jobs: Sequence[Job], how: Executing) -> Iterator[Outcome]:
    if how.executor == ExecutorKind.PROCESS:
        from experiments.executors.processes import in_processes

        return in_processes(jobs, how)
    if how.executor == ExecutorKind.RAY:
        from experiments.executors.on_ray import on_ray

        return on_ray(jobs, how)
    if how.threads is not None:
        import torch

        torch.set_num_threads(how.threads)
    place = Workplace()
    return (attempt(job, index, place) for index, job in enumerate(jobs))
