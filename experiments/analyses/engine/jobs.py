"""Units of an analysis as jobs: what another process needs to know to compute one and store it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.base.choices import Known, Templates
from circuits.base.errors import UnitError
from circuits.model.model import Model
from experiments.analyses.engine.base import Analysis
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.parts import compute_part
from experiments.executors.base import (
    Executing,
    ExecutorKind,
    Job,
    Outcome,
    Status,
    Workplace,
)
from experiments.executors.execute import execute

Find = Callable[[Any], Analysis]
"""Gives an analysis again, from what names it; a function of a module, so that it travels."""


@dataclass(frozen=True)
class Surroundings:
    """A context's plain parts."""

    model: str
    folder: Path
    shared: Path | None
    seed: int
    device: str | None
    dtype: str
    facts: str | None
    batch_size: int
    known: Known
    shots: int
    templates: Templates
    device_map: str | None
    memory: int | None

    @classmethod
    def of(cls, context: Context) -> Surroundings:
        """Those of a context whose model has a name."""
        return cls(
            context.model_name,
            context.folder.absolute(),
            context.shared and context.shared.absolute(),
            context.seed,
            context.device,
            context.dtype,
            context.facts,
            context.batch_size,
            context.known,
            context.shots,
            context.templates,
            context.device_map,
            context.memory,
        )

    def made(self, place: Workplace) -> Context:
        """The context, with the model that the place has."""
        return Context.on(
            self.model_in(place),
            self.folder,
            shared=self.shared,
            seed=self.seed,
            device=self.device,
            facts=self.facts,
            batch_size=self.batch_size,
            known=self.known,
            shots=self.shots,
            templates=self.templates,
            device_map=self.device_map,
            memory=self.memory,
        )

    def model_in(self, place: Workplace) -> Model:
        """The model that the place has."""
        model = place.model(self.model, self.device, self.dtype, self.device_map)
        model.memory = self.memory
        return model


@dataclass(frozen=True)
class PartJob(Job):
    """One unit of an analysis: `find(named)` is the analysis."""

    find: Find
    named: Any
    config: Any
    around: Surroundings
    key: str

    @property
    def label(self) -> str:
        """The unit's key."""
        return self.key

    def run(self, place: Workplace) -> None:
        """Compute the unit and store it where the analysis looks for it."""
        self.around.model_in(place)
        context = place.once(self.around, lambda: self.around.made(place))
        analysis = place.once(("analysis", self.find, self.named), lambda: self.find(self.named))
        compute_part(analysis, self.config, context, self.key)


def spread(
    find: Find,
    named: Any,
    config: Any,
    context: Context,
    how: Executing,
    note: Callable[[str], Any] = lambda text: None,
) -> Callable[[Sequence[str]], None] | None:
    """A function that has units computed by an executor; UnitError where one failed.

    None for the serial one without a number of threads: the model that is here computes them.
    """
    if how.executor == ExecutorKind.SERIAL and how.threads is None:
        return None
    around = Surroundings.of(context)

    def run(keys: Sequence[str]) -> None:
        jobs = [PartJob(find, named, config, around, key) for key in keys]
        failed: list[str] = []
        done = [0]

        def told(outcome: Outcome) -> None:
            done[0] += 1
            label = jobs[outcome.index].label
            if outcome.status == Status.DONE:
                note(f"{label}: {outcome.seconds:.1f} s ({done[0]} of {len(jobs)})")
            else:
                failed.append(f"{label}: {outcome.reason}")
                note(f"{label} {outcome.status}: {outcome.reason}")

        execute(jobs, how, told)
        if failed:
            raise UnitError(f"{len(failed)} of {len(jobs)} units failed, the first: {failed[0]}")

    return run
