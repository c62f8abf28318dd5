"""The choices behind a circuit: their levels, one changed at a time, and drawn together."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.base.choices import Ablation, Metric, Open, Templates
from circuits.base.errors import OptionError
from circuits.base.options import Options, option
from experiments.analyses.engine.context import Context
from experiments.analyses.locators.analysis import asked_of, named_in
from locate.search import Search

BASE_LOCATOR, BASE_STEPS = "eap-ig", 5
FACTORS = {
    "wording": "the wording of the questions",
    "foils": "the draw of corrupted subjects",
    "subjects": "the draw of subjects",
    "shots": "the number of answered questions in front",
    "steps": "the number of integration steps",
    "locator": "the locator",
    "metric": "the metric",
    "ablation": "what replaces a cut edge",
    "dtype": "the precision",
}
"""The choices by name, in words."""
_TRIES = 1000

Setting = Mapping[str, str]
"""A level of every factor."""

FEWEST_DRAWS = 8
"""Combinations below which nothing is said of choices together."""


@dataclass(frozen=True)
class Config(Options):
    """Options; see `kc run --list`."""

    relations: tuple[str, ...] = option((), "relations to look at; none given: drawn", selects=True)
    most: int | None = option(5, "relations drawn where none is named; 0: all", low=0, selects=True)
    pairs: int = option(16, "prompt pairs that find a circuit, and that test it", low=2)
    edges: int | None = option(None, "edges to select; none: 200, at most a tenth of all", low=1)
    wordings: tuple[Templates, ...] = option(
        (Templates.TRAIN, Templates.HELD_OUT), "templates beside those that the run asks in"
    )
    foils: int = option(2, "other draws of the corrupted subjects", low=0, high=20)
    subjects: int = option(2, "other draws of the subjects that are asked about", low=0, high=20)
    shots: tuple[int, ...] = option((2,), "numbers of answered questions beside the run's", low=0)
    steps: tuple[int, ...] = option((1, 20), f"integration steps beside {BASE_STEPS}", low=1)
    locators: tuple[str, ...] = option(
        ("eap", "relp", "gim", "atp-star"), f"locators beside {BASE_LOCATOR}"
    )
    metrics: tuple[str, ...] = option(("log-prob", "prob-diff"), "metrics beside logit-diff")
    ablations: tuple[Ablation, ...] = option(
        (Ablation.ZERO, Ablation.MEAN), "ablations beside patching"
    )
    dtypes: tuple[str, ...] = option(("bf16",), "precisions beside the run's")
    draws: int = option(
        32, "combinations of all choices, drawn at random", low=FEWEST_DRAWS, high=1000
    )
    random_circuits: int = option(5, "random circuits to compare with", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for locator in self.locators:
            asked_of(Search, locator)
        for metric in self.metrics:
            Metric.of(metric, "metrics")
        for dtype in self.dtypes:
            if dtype not in ("fp32", "bf16", "fp16"):
                raise OptionError(f"`dtypes` {dtype:.20} is none of fp32, bf16, fp16")

    def called(self) -> Mapping[str, Sequence[Open]]:
        """The locators, with members of ensembles, and the metrics."""
        metrics = [Metric.of(each) for each in self.metrics]
        return {"locators": named_in(self.locators), "metrics": metrics}


def levels(config: Config, asked: Context) -> dict[str, list[str]]:
    """The levels of each factor that has more than one, the base's, as `asked` has it, first."""
    found = {
        "wording": [asked.asked_in, *config.wordings],
        "foils": [*range(config.foils + 1)],
        "subjects": [*range(config.subjects + 1)],
        "shots": [asked.shots, *config.shots],
        "steps": [BASE_STEPS, *config.steps],
        "locator": [BASE_LOCATOR, *config.locators],
        "metric": [Metric.LOGIT_DIFFERENCE, *config.metrics],
        "ablation": [Ablation.PATCH, *config.ablations],
        "dtype": [asked.dtype, *config.dtypes],
    }
    named = {name: list(dict.fromkeys(map(str, each))) for name, each in found.items()}
    varied = {name: each for name, each in named.items() if len(each) > 1}
    if not varied:
        raise OptionError("nothing is varied: give one choice at least a second level")
    return varied


def search_of(setting: Setting, config: Config) -> Search:
    """What a setting asks of the search; OptionError where its choices exclude each other."""
    values: dict[str, Any] = {
        name: setting[name] for name in ("metric", "ablation") if name in setting
    }
    return asked_of(
        Search,
        setting.get("locator", BASE_LOCATOR),
        steps=int(setting.get("steps", BASE_STEPS)),
        edges=config.edges,
        resamples=0,
        **values,
    )


def base_of(known: Mapping[str, list[str]]) -> dict[str, str]:
    """Every factor at its base."""
    return {name: each[0] for name, each in known.items()}


def one_at_a_time(known: Mapping[str, list[str]], config: Config) -> list[tuple[str, str, Setting]]:
    """Factor, level and setting of every change of the base in one choice that is possible."""
    changed = [
        (name, level, {**base_of(known), name: level})
        for name, each in known.items()
        for level in each[1:]
    ]
    return [each for each in changed if _possible(each[2], config)]


def drawn(known: Mapping[str, list[str]], config: Config, seed: int) -> list[Setting]:
    """Combinations of levels, each alike; one whose choices exclude each other is drawn again."""
    generator = random.Random(f"stability {seed}")
    found: list[Setting] = []
    for _ in range(_TRIES + config.draws):
        setting = {name: generator.choice(each) for name, each in known.items()}
        if _possible(setting, config):
            found.append(setting)
        if len(found) == config.draws:
            return found
    raise OptionError("hardly any combination of these choices is possible; take others")


def idle(setting: Setting, config: Config) -> frozenset[str]:
    """The factors whose level does nothing beside the others of a setting.

    Steps where the locator takes none; other corrupted subjects where neither what replaces a cut
    edge is theirs nor the metric asks for the foil (which still tells where a pair is asked if it
    begins as the answer does; such pairs are few).
    """
    search = search_of(setting, config)
    found = {name for each in search.idle() for name in each.names}
    if search.ablation.is_constant and not search.metric.contrast:
        found.add("foils")
    return frozenset(found & set(setting))


def _possible(setting: Setting, config: Config) -> bool:
    try:
        search_of(setting, config)
    except OptionError:
        return False
    return True
