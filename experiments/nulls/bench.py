"""`kc bench noise`: whether `kc compare`'s noise floor keeps its level for every locator.

For each relation and locator a model's pairs are scored once, its facts split at random into
halves, and the halves compared as if they were two models (`circuits.graph.null`). The level is a
false discovery rate, and where nothing changed every discovery is false: so at most 5 % of the
comparisons may call any edge changed (`any`), and a far smaller share of edges is called so
(`edges`). Intervals resample relations: splits of one relation's facts are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from circuits.base.choices import Templates
from circuits.base.errors import NothingFoundError, OptionError, PromptError
from circuits.base.intervals import Interval, bootstrap, mean
from circuits.base.origin import code_commit, model_label, timestamp
from circuits.base.progress import Progress
from circuits.base.stamps import stamped
from circuits.facts.pairs import TokenPair
from circuits.graph.noise import NoiseSettings, Sample, sample_of
from circuits.graph.null import calls_between_halves
from circuits.model.model import Model
from experiments.analyses.engine.tables import Table
from locate.edges.locators import Locator
from locate.edges.score import pair_scores
from locate.examples import collect
from locate.options import Source
from locate.search import Scoring, with_each

Stage = Callable[[str], AbstractContextManager[Progress]]
MEASURES = ("edges", "any", "single")
FEWEST = 16
"""Facts below which halves have too few to say much."""


@dataclass(frozen=True)
class Null:
    """One relation and locator. `edges`: mean share of edges called changed in a comparison;
    `any`: share of comparisons that call at least one so; `single`: mean share of edges with a
    p-value of at most the level.
    """

    relation: str
    method: str
    facts: int
    pairs: int
    edges: float
    any: float
    single: float


@dataclass(frozen=True)
class NullBench:
    """All of them, and what they were measured with."""

    nulls: tuple[Null, ...]
    skipped: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Locators in the order in which they ran."""
        return list(dict.fromkeys(each.method for each in self.nulls))

    def mean(self, method: str, measure: str) -> Interval:
        """Mean over relations with its 95 % interval, relations being resampled."""
        values = [getattr(each, measure) for each in self.nulls if each.method == method]
        return bootstrap(mean, np.array(values))

    def by_method(self) -> Table:
        """A row a locator."""
        columns: dict[str, Callable[..., Any]] = {
            "method": str,
            "edges": lambda name: self.mean(name, "edges"),
            "any": lambda name: self.mean(name, "any"),
            "single": lambda name: self.mean(name, "single"),
            "relations": lambda name: sum(each.method == name for each in self.nulls),
        }
        return Table.of("methods", self.methods, columns, digits={"edges": 5})

    def table(self) -> Table:
        """A row a relation and locator."""
        names = tuple(Null.__dataclass_fields__)
        return Table("nulls", names, [[*asdict(each).values()] for each in self.nulls])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        means = {
            name: {what: self.mean(name, what).as_dict() for what in MEASURES}
            for name in self.methods
        }
        rows = [asdict(each) for each in self.nulls]
        record = {
            "methods": means,
            "relations": rows,
            "skipped": list(self.skipped),
            "provenance": self.provenance,
        }
        return stamped("bench-noise", record, self.says())

    def says(self) -> str:
        """How often the locator of the most false calls makes any, and what the level allows."""
        means = {name: self.mean(name, "any").value for name in self.methods}
        most = max(means, key=lambda name: means[name])
        n, level = len({each.relation for each in self.nulls}), self.provenance["level"]
        which = f"{most}, of {len(means)} locators the one of the most," if len(means) > 1 else most
        which = f"any of {len(means)} locators" if len(means) > 1 and not means[most] else which
        return (
            f"Where nothing changed {which} calls an edge changed in {100 * means[most]:.1f} % of "
            f"the comparisons of {model_label(self.provenance)} with itself "
            f"({n} relation{'s' * (n != 1)}); the level allows {100 * level:g} %."
        )


def chosen_methods(
    names: Sequence[str] | None, scoring: Scoring
) -> tuple[list[Scoring], list[str]]:
    """The scoring with each of these locators, and why others are left out.

    By default with all whose scores `kc compare` can compare and that go with the options; exact
    patching only where it is named: it takes a run an edge. OptionError where one that is named has
    no scores of single pairs, or none with these options.
    """
    if names is None:
        usual = [each for each in Locator if each.per_pair and each != Locator.EXACT]
        return with_each(scoring, usual)
    found = [Locator.of(name, "methods") for name in dict.fromkeys(names)]
    for each in found:
        if not each.per_pair:
            raise OptionError(f"{each} gives no scores of single pairs to compare")
    return [replace(scoring, method=each) for each in found], []


def bench(
    model: Model,
    relations: Sequence[str],
    scorings: Sequence[Scoring],
    *,
    pairs: int = 32,
    splits: int = 40,
    shots: int = 0,
    settings: NoiseSettings | None = None,
    seed: int = 0,
    batch_size: int = 16,
    stage: Stage,
) -> NullBench:
    """Every locator on every relation of which enough facts are known; OptionError for none.

    `settings` are those of the noise floor; by default any change counts.
    """
    settings = settings or NoiseSettings(margin=0.0)
    nulls: list[Null] = []
    skipped: list[str] = []
    for name in relations:
        asked = Source(
            relation=name,
            templates=Templates.FIRST,
            n_pairs=pairs,
            hold_out=0.0,
            shots=shots,
            seed=seed,
        )
        try:
            found = collect(model, asked, batch_size).pairs
        except (PromptError, NothingFoundError) as error:
            skipped.append(f"{name}: {error}")
            continue
        sample = sample_of(found)
        n_facts = len(set(sample.facts))
        if n_facts < FEWEST:
            skipped.append(f"{name}: {n_facts} facts")
            continue
        with stage(name) as progress:
            for done, scoring in enumerate(scorings, start=1):
                null = _null(model, found, sample, scoring, splits, settings, seed, batch_size)
                nulls.append(Null(name, str(scoring.method), n_facts, len(found), *null))
                progress(done, len(scorings))
    if not nulls:
        raise OptionError(
            f"{model.name!r} knows fewer than {FEWEST} facts of each relation asked for"
        )
    provenance = {
        **model.provenance,
        "scorings": {str(each.method): each.record() for each in scorings},
        **{"pairs": pairs, "splits": splits, "shots": shots, "seed": seed},
        "bos": model.tokenizer.use_bos(None),
        "level": settings.level,
        "margin": settings.margin,
        "code_commit": code_commit(),
        "created": timestamp(),
    }
    return NullBench(tuple(nulls), tuple(skipped), provenance)


def _null(
    model: Model,
    pairs: Sequence[TokenPair],
    sample: Sample,
    scoring: Scoring,
    splits: int,
    settings: NoiseSettings,
    seed: int,
    batch_size: int,
) -> tuple[float, float, float]:
    scores = pair_scores(model, pairs, scoring, batch_size=batch_size)
    shares = calls_between_halves(scores, sample, splits=splits, seed=seed, settings=settings)
    called, single = shares.T
    return float(called.mean()), float((called > 0).mean()), float(single.mean())
