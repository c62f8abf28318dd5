"""`kc bench locators`: how well each locator's scores tell the true edges of planted circuits.

An edge counts as found by the size of its score, |score|, as circuits are selected; AUROC is then
the chance that a true edge has a larger one than an edge that is none (half a chance where equal),
average precision the mean over true edges of the share of true ones among all that score as much or
more. `signed` is the AUROC of the score itself, where true edges that work against the answer and
edges that do nothing are alike the wrong way round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from circuits.base.errors import NumericalError, OptionError
from circuits.base.intervals import Interval, enough
from circuits.base.origin import code_commit, timestamp
from circuits.base.progress import Progress
from circuits.base.ranks import area
from circuits.base.stamps import stamped
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair, encode_pairs
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model, library_versions
from experiments.analyses.engine.claims import average
from experiments.analyses.engine.tables import Table
from experiments.planted import NOISE
from experiments.planted.program import Program
from experiments.planted.tasks import PROGRAMS, TRAINED
from experiments.planted.trained import trained
from experiments.planted.wire import Build, compiled
from locate.edges.locators import Locator
from locate.edges.score import score_edges
from locate.search import Scoring, with_each

Stage = Callable[[str], AbstractContextManager[Progress]]
MEASURES = ("auroc", "average_precision", "signed")
ROUNDS = 3
"""Forward runs of which the fastest is the unit of time."""
TRAINED_AS = "trained"


@dataclass(frozen=True)
class Planted:
    """A planted model that can be made: a program and how; named `task/build`."""

    program: Program
    build: str

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.program.name}/{self.build}"

    def made(self, noise: float = NOISE, seed: int = 0) -> Model:
        """The model; noise is of compiled ones, a trained one has what descent leaves."""
        if self.build == TRAINED_AS:
            return trained(self.program, seed)
        return compiled(self.program, self.build, noise, seed)

    def pairs(self, model: Model) -> list[TokenPair]:
        """The task's pairs, encoded."""
        return encode_pairs(model.tokenizer, [each.pair() for each in self.program.examples])

    def truth(self, model: Model, scoring: Scoring) -> Bool[np.ndarray, " edge"]:
        """The true edges in the scoring's convention for keys and values, under its ablation."""
        biased = self.build in (Build.GPT2, TRAINED_AS)
        return self.program.truth(model.wiring(scoring.kv), scoring.ablation, biased)


def catalogue() -> list[Planted]:
    """Every planted model, compiled ones first."""
    made = [Planted(program, build) for program, builds in PROGRAMS for build in builds]
    return [*made, *(Planted(program, TRAINED_AS) for program in TRAINED)]


def chosen_models(names: Sequence[str] | None) -> list[Planted]:
    """Those of these names, or of these tasks; all for none."""
    every = catalogue()
    if not names:
        return every
    found = [each for each in every if {each.name, each.program.name, each.build} & {*names}]
    known = {word for each in every for word in (each.name, each.program.name, each.build)}
    if wrong := [name for name in names if name not in known]:
        tasks = ", ".join(dict.fromkeys(each.program.name for each in every))
        raise OptionError(f"no planted model {wrong[0]!r:.60}; there are {tasks}")
    return found


def chosen_methods(
    names: Sequence[str] | None, scoring: Scoring
) -> tuple[list[Scoring], list[str]]:
    """The scoring with each locator that gives scores, and why others are left out.

    OptionError where one that is named gives none, or none with these options.
    """
    if names:
        for name in dict.fromkeys(names):
            if Locator.of(name, "method").selects:
                raise OptionError(f"{name} selects edges itself and gives no scores to compare")
        return [replace(scoring, method=Locator.of(name)) for name in dict.fromkeys(names)], []
    return with_each(scoring, [each for each in Locator if not each.selects])


def auroc(scores: Float[np.ndarray, " edge"], truth: Bool[np.ndarray, " edge"]) -> float:
    """The chance that a true edge scores higher than one that is none (`circuits.base.ranks`)."""
    return float(area(scores, truth))


def average_precision(
    scores: Float[np.ndarray, " edge"], truth: Bool[np.ndarray, " edge"]
) -> float:
    """Mean over true edges of the share of true ones among all that score as high or higher.

    Equal scores are one step, so that their order is no matter; NaN where no edge is true.
    """
    if not truth.any():
        return float("nan")
    at_least = rankdata(-scores, "max")
    true_ones = rankdata(-scores[truth], "max")
    return float(np.mean(true_ones / at_least[truth]))


@dataclass(frozen=True)
class Score:
    """One locator on one planted model, named `program/build`. `forwards`: its time over that of
    one clean forward run of all pairs; `missed`: the true edges, by name, that score lower than
    some edge that is none.
    """

    model: str
    method: str
    auroc: float
    average_precision: float
    signed: float
    seconds: float
    forwards: float
    n_true: int
    n_edges: int
    missed: tuple[str, ...]

    @property
    def program(self) -> str:
        """What the model was made to do."""
        return self.model.partition("/")[0]


@dataclass(frozen=True)
class LocatorBench:
    """All scores, and what they were measured with."""

    scores: tuple[Score, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Locators in the order in which they ran."""
        return list(dict.fromkeys(each.method for each in self.scores))

    def of(self, method: str) -> list[Score]:
        """One locator's scores."""
        return [each for each in self.scores if each.method == method]

    def mean(self, method: str, measure: str) -> Interval:
        """Mean over models with its 95 % interval over programs (none below eight).

        Models of one program are alike: programs are resampled, each with all its models.
        """
        found = self.of(method)
        programs = [each.program for each in found]
        estimate = average([getattr(each, measure) for each in found], programs)
        if enough(len(set(programs))):
            return estimate
        return Interval(estimate.value, np.nan, np.nan)

    def by_method(self) -> Table:
        """A row a locator, best mean AUROC first."""
        order = sorted(self.methods, key=lambda name: -self.mean(name, "auroc").value)
        columns: dict[str, Callable[..., Any]] = {
            "method": str,
            **{measure: partial(self.mean, measure=measure) for measure in MEASURES},
            "forwards": lambda name: float(np.median([each.forwards for each in self.of(name)])),
        }
        return Table.of("methods", order, columns, digits={"forwards": 0})

    def by_model(self) -> Table:
        """A row a planted model, a column of AUROC a locator."""
        models = list(dict.fromkeys(each.model for each in self.scores))
        found = {(each.model, each.method): each.auroc for each in self.scores}
        rows = [[name, *(found[name, method] for method in self.methods)] for name in models]
        return Table("models", ("model", *self.methods), rows)

    def table(self) -> Table:
        """A row a locator and model, with everything."""
        names = tuple(each.name for each in fields(Score))
        rows = [[*map(_cell, vars(each).values())] for each in self.scores]
        return Table("locators", names, rows)

    def as_dict(self) -> dict[str, Any]:
        """Means by locator and scores by model, as plain values."""
        means = {
            name: {measure: self.mean(name, measure).as_dict() for measure in MEASURES}
            for name in self.methods
        }
        rows = [{**vars(each), "missed": list(each.missed)} for each in self.scores]
        record = {"methods": means, "models": rows, "provenance": self.provenance}
        return stamped("bench-locators", record, self.says())

    def says(self) -> str:
        """The locator with the best mean AUROC, the worst, and chance."""
        means = {name: self.mean(name, "auroc").value for name in self.methods}
        best, worst = max(means, key=lambda n: means[n]), min(means, key=lambda n: means[n])
        n = len({each.model for each in self.scores})
        text = f"On {n} planted circuits {best} tells true edges from others best: AUROC "
        text += f"{means[best]:.3f}, where chance gives 0.5"
        return f"{text}, and {worst} worst: {means[worst]:.3f}." if best != worst else f"{text}."


def bench(
    models: Sequence[Planted],
    scorings: Sequence[Scoring],
    *,
    noise: float = NOISE,
    seed: int = 0,
    batch_size: int = 16,
    stage: Stage,
) -> LocatorBench:
    """Every locator on every planted model; `stage` shows the work, a model a stage."""
    if not scorings or not models:
        raise OptionError("there is no locator, or no planted model, to measure")
    scores: list[Score] = []
    hashes = {}
    for planted in models:
        with stage(planted.name) as progress:
            model = planted.made(noise, seed)
            hashes[planted.name] = model.provenance["weights_sha256"]
            pairs, truth = planted.pairs(model), planted.truth(model, scorings[0])
            unit = _forward_seconds(model, pairs, batch_size)
            for done, scoring in enumerate(scorings, start=1):
                start = time.perf_counter()
                found = score_edges(model, pairs, scoring, batch_size=batch_size)
                seconds = time.perf_counter() - start
                assert isinstance(found, EdgeScores)
                scores.append(_scored(planted.name, found, truth, scoring, seconds, unit))
                progress(done, len(scorings))
    provenance = {
        "scorings": {str(each.method): each.record() for each in scorings},
        **{"noise": noise, "seed": seed, "batch_size": batch_size},
        "weights_sha256": hashes,
        "versions": library_versions(),
        "code_commit": code_commit(),
        "created": timestamp(),
    }
    return LocatorBench(tuple(scores), provenance)


def _scored(
    name: str,
    found: EdgeScores,
    truth: Bool[np.ndarray, " edge"],
    scoring: Scoring,
    seconds: float,
    unit: float,
) -> Score:
    values = found.values.astype(np.float64)
    if not np.isfinite(values).all():
        raise NumericalError(f"{scoring.method} gives scores of {name} that are not finite")
    size = np.abs(values)
    best_false = size[~truth].max()
    missed = [found.wiring.edge_name(edge) for edge in np.flatnonzero(truth & (size <= best_false))]
    return Score(
        model=name,
        method=str(scoring.method),
        auroc=auroc(size, truth),
        average_precision=average_precision(size, truth),
        signed=auroc(values, truth),
        seconds=seconds,
        forwards=seconds / unit,
        n_true=int(truth.sum()),
        n_edges=len(truth),
        missed=tuple(missed),
    )


@torch.no_grad()
def _forward_seconds(model: Model, pairs: Sequence[TokenPair], batch_size: int) -> float:
    """The fastest of some forward runs of all clean prompts."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for batch in batches(pairs, batch_size, model):
            model.last_logits(batch.clean)
        found.append(time.perf_counter() - start)
    return min(found)


def _cell(value: Any) -> Any:
    return " ".join(value) if isinstance(value, tuple) else value
