"""What a sweep is made of: a YAML file that names models, seeds and verbs with their options.

    models: [facts-gpt2, facts-llama]
    seeds: [0, 1]
    units:
      - verb: discover
        relation: [country_capital, country_language]
        method: [eap-ig, eap]

A list is an axis of the grid (a list of lists, for an option that is itself a list). Options are
called as on the command line. `relation: each` is every relation of the atlas, or of `facts`; an
`edit` makes a unit of every request. Both go by the other axes: by each file of facts its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, get_origin

import yaml

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.options import Options, build, option, types_of
from circuits.base.writing import to_json
from experiments.sweeps.verbs import PARTS, Verb, checked, verb
from locate.options import Wish

EACH = "each"
MOST_BYTES = 4 * 2**20
_USUAL = ("dtype", "device", "device_map")
_KNOWN = ("models", "seeds", "units", *_USUAL)


@dataclass(frozen=True)
class ModelSpec(Options):
    """A model of a sweep."""

    name: str = option("", "name, folder or file")
    device: str | None = option(None, "where it runs")
    dtype: str = option("fp32", "fp32, bf16 or fp16")
    device_map: str | None = option(None, "Where weights stay: as `--device-map`")


@dataclass(frozen=True)
class Work:
    """A verb on one model with one choice of every axis; `settings` are as the spec has them."""

    verb: str
    model: ModelSpec
    settings: Mapping[str, Any]

    @property
    def content(self) -> Any:
        """What tells it from another work of its verb."""
        return to_json(self.settings) if self.verb in PARTS else self.shares

    @cached_property
    def shares(self) -> tuple[tuple[type, str], ...]:
        """The settings by the classes of options that take them, as JSON."""
        return verb(self.verb).shares(self.settings)

    @property
    def label(self) -> str:
        """What progress calls it."""
        shown = (f"{k}={v}" for k, v in self.settings.items() if v is not None)
        return " ".join([self.verb, self.model.name, *shown])


@dataclass(frozen=True)
class Spec:
    """A spec that was read: works of the verbs, and runs of analyses and benchmarks."""

    works: tuple[Work, ...]
    runs: tuple[Work, ...] = field(default=())


def read_spec(path: str | Path) -> Spec:
    """The spec of a YAML file; FileFormatError or OptionError says what is wrong, and where."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MOST_BYTES:
            raise FileFormatError(path, f"holds more than {MOST_BYTES} bytes")
        found = yaml.safe_load(text)
    except OSError as error:
        raise FileFormatError(path, error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise FileFormatError(path, "is no UTF-8 text") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileFormatError(path, f"is no YAML: {' '.join(str(error).split()):.200}") from None
    try:
        return parse_spec(found)
    except OptionError as error:
        raise FileFormatError(path, str(error)) from None


def parse_spec(found: Any) -> Spec:
    """The spec of a mapping; OptionError says what is wrong with it."""
    if not isinstance(found, Mapping) or not found.get("models") or not found.get("units"):
        raise OptionError("a sweep names `models` and `units`")
    found = _underscored(found)
    for name in found:
        if name not in _KNOWN:
            raise OptionError(f"a sweep has no {name!r:.40}; it has {', '.join(_KNOWN)}")
    usual = {name: found[name] for name in _USUAL if name in found}
    models = [_model(each, usual) for each in _listed(found["models"])]
    seeds = _listed(found.get("seeds", [0]))
    works: list[Work] = []
    runs: list[Work] = []
    for number, entry in enumerate(_listed(found["units"]), start=1):
        try:
            name, grid = _entry(entry)
            into = runs if name in PARTS else works
            points: list[tuple[Any, ...]] = []
            named: set[str] = set()
            for seed, settings in product(seeds, grid):
                made = [Work(name, model, {"seed": seed, **settings}) for model in models]
                if name not in PARTS:
                    points.append(checked(made[0].shares))
                    named |= set(settings)
                into += made
            _refuse_idle(named, points)
        except OptionError as error:
            raise OptionError(f"units, entry {number}: {error}") from None
    # One model after the other, so that a process loads each once.
    works.sort(key=lambda work: models.index(work.model))
    return Spec(_once_each(works), _once_each(runs))


def _refuse_idle(named: Collection[str], points: Iterable[Sequence[Any]]) -> None:
    """OptionError for an option of an entry that has no effect at any point of its grid.

    One may be idle at some: a grid varies a method together with an option that not all read.
    """
    always: dict[str, str] | None = None
    for point in dict.fromkeys(points):
        idle = {
            name: why
            for chosen in point
            if isinstance(chosen, Options)
            for why, names in chosen.idle()
            for name in names
            if name in named
        }
        always = {n: why for n, why in idle.items() if always is None or n in always}
        if not always:
            return
    for name, why in (always or {}).items():
        raise OptionError(f"`{name}` has no effect {why}")


def _once_each(works: Sequence[Work]) -> tuple[Work, ...]:
    """The works without repetitions, which come of axes that name a value twice."""
    return tuple({(work.verb, work.model, work.content): work for work in works}.values())


def _underscored(given: Mapping[Any, Any]) -> dict[str, Any]:
    """The options by their names in Python."""
    return {str(name).replace("-", "_"): value for name, value in given.items()}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _model(value: Any, usual: Mapping[str, Any]) -> ModelSpec:
    given = _underscored(value) if isinstance(value, Mapping) else {"name": value}
    model = build(ModelSpec, {**usual, **given}, "models")
    if not model.name:
        raise OptionError("`models`: a model has no name")
    return model


def _entry(entry: Any) -> tuple[str, Iterator[dict[str, Any]]]:
    """A verb's name and the settings of each point of its grid."""
    if not isinstance(entry, Mapping) or "verb" not in entry:
        raise OptionError("an entry is a mapping with a `verb`")
    given = _underscored({k: v for k, v in entry.items() if k != "verb"})
    name = str(entry["verb"])
    if name in PARTS:
        if PARTS[name] not in given:
            raise OptionError(f"{name} names no `{PARTS[name]}`")
        # By its name on the command line, as the options of the verbs below may be called too.
        named = {"templates" if key == "split" else key: each for key, each in given.items()}
        return name, _grid(named, {"methods", "set"})
    chosen = verb(name)
    known = chosen.names()
    for each in given:
        if each not in known:
            near = get_close_matches(each, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise OptionError(f"{name} has no option {each!r:.40}; {hint}")
    named = {known[each]: value for each, value in given.items()}
    return name, _spelled_out(name, _grid(named, _lists(chosen)))


def _lists(chosen: Verb) -> set[str]:
    """Options whose value is a list."""
    hints = {name: hint for kind in chosen.kinds for name, hint in types_of(kind).items()}
    return {name for name, hint in hints.items() if get_origin(hint) is tuple}


def _grid(given: Mapping[str, Any], lists: Collection[str]) -> Iterator[dict[str, Any]]:
    """Every choice of one value an axis."""
    axes = []
    for name, value in given.items():
        is_axis = isinstance(value, list)
        if name in lists:
            is_axis = is_axis and bool(value) and isinstance(value[0], list)
        if is_axis and not value:
            raise OptionError(f"`{name}` is an empty list")
        axes.append([(name, each) for each in (value if is_axis else [value])])
    return (dict(point) for point in product(*axes))


def _spelled_out(name: str, grid: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The points with one for every relation, or every request, in place of `each`."""
    relations, count = cache(_relations), cache(_count)
    for point in grid:
        every: dict[str, Any] = {}
        if point.get("relation") == EACH:
            facts = point.get("facts")
            every["relation"] = relations(str(facts) if facts else None)
        if name == "edit" and point.get("request", EACH) == EACH:
            every["request"] = list(range(1, _n_requests(point, count) + 1))
        yield from ({**point, **each} for each in _grid(every, ()))


def _relations(facts: str | None) -> list[str]:
    from circuits.facts.facts import atlas
    from circuits.facts.loaders import load_facts

    return [each.name for each in load_facts(facts)] if facts else list(atlas())


def _count(path: str) -> int:
    from circuits.edits.requests import read_requests

    return len(read_requests(path).requests)


def _n_requests(point: Mapping[str, Any], count: Callable[[str], int]) -> int:
    """How many requests an `edit` has, by the file's `count`; OptionError for a strange number."""
    if point.get("requests") is not None:
        return count(str(point["requests"]))
    if point.get("random") is not None:
        return build(Wish, {"random": point["random"]}, "edit").random or 1
    return 1
