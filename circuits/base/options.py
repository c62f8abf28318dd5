"""Options as fields of frozen dataclasses, written once: default, meaning, range, conversion.

A class of options mixes in `Options` and declares its fields with `option`. However a value comes,
from Python, a command line, `--set` or YAML, it is turned into what the annotation wants and held
against its range; what does not fit is an OptionError in one line. Command lines and help texts
are made from the same fields, so this module imports no torch.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from enum import Enum
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from circuits.base.choices import Choice, Open
from circuits.base.errors import OptionError
from circuits.base.idle import Idle

T = TypeVar("T")
_KEY = "option"
_hints = cache(get_type_hints)
_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Meaning:
    """What an option is, apart from its name, type and default.

    `low` and `high` are inclusive, `above` is not. `flags` are its names on a command line, where
    they are not the field's own. `selects`: it chooses units of work and does not change any of
    them.
    """

    text: str = ""
    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    selects: bool = False
    above: float | None = None


def option(
    default: Any,
    text: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    selects: bool = False,
    above: float | None = None,
) -> Any:
    """A field of a class of options; the arguments are those of `Meaning`."""
    meaning = Meaning(text, low, high, flags, metavar, selects, above)
    return field(default=default, metadata={_KEY: meaning})


class Options:
    """Mixed into a frozen dataclass: its fields are converted and checked when it is made.

    A class with a `__post_init__` of its own calls this one first.
    """

    def __post_init__(self) -> None:
        hints = types_of(type(self))
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            made = within(each.name, converted(each.name, value, hints[each.name]), meaning(each))
            if made is not value:
                object.__setattr__(self, each.name, made)

    def idle(self) -> tuple[Idle, ...]:
        """The options that have no effect beside the values of the others."""
        return ()

    def called(self) -> Mapping[str, Sequence[Open]]:
        """Open choices that an option calls by name in a text, by the option."""
        return {}


def meaning(each: Field[Any]) -> Meaning:
    """What an option says about itself; an empty meaning for a plain field."""
    found = each.metadata.get(_KEY)
    return found if isinstance(found, Meaning) else Meaning()


def meanings(kind: Any) -> dict[str, Meaning]:
    """Every option of a class, or of a value of it, by name."""
    return {each.name: meaning(each) for each in fields(kind)}


def default_of(each: Field[Any]) -> Any:
    """An option's default; MISSING where it has none."""
    return each.default_factory() if each.default_factory is not MISSING else each.default


def types_of(kind: Any) -> dict[str, Any]:
    """The annotations of a class, resolved."""
    return _hints(kind)


def build(kind: type[T], values: Mapping[str, Any], what: str = "") -> T:
    """A class of options from plain values; OptionError names what there is none of.

    Some values of a nested class stand beside those of the field's own default.
    """
    _check_names(kind, values, what)
    usual = {each.name: default_of(each) for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**_made(kind, usual, values, what))


def changed(options: T, values: Mapping[str, Any], what: str = "") -> T:
    """The options with other values; OptionError as in `build`."""
    kind = type(options)
    _check_names(kind, values, what)
    return replace(options, **_made(kind, vars(options), values, what))  # type: ignore[type-var]


def _made(
    kind: type, before: Mapping[str, Any], values: Mapping[str, Any], what: str
) -> dict[str, Any]:
    """The values converted; those of nested classes in the place of the ones before."""
    hints, made = types_of(kind), dict[str, Any]()
    for name, value in values.items():
        old = before[name]
        if is_dataclass(old) and not isinstance(old, type) and isinstance(value, Mapping):
            made[name] = changed(old, value, _place(what, name))
        else:
            made[name] = converted(_place(what, name), value, hints[name])
    return made


def as_dict(options: Any) -> dict[str, Any]:
    """The options as plain values, nested ones as dictionaries."""
    return {each.name: _plain(getattr(options, each.name)) for each in fields(options)}


def sources(options: Any) -> dict[str, Any]:
    """`NAME_sha256` of each option that a user's own function stands for: of its source.

    Several have a list. Nothing is said of what comes with this project; nested names have dots.
    """
    called = options.called() if isinstance(options, Options) else {}
    found: dict[str, Any] = {}
    for each in fields(options):
        value = getattr(options, each.name)
        if is_dataclass(value) and not isinstance(value, type):
            found |= {f"{each.name}.{name}": mark for name, mark in sources(value).items()}
        chosen = [*called.get(each.name, ()), *(value if isinstance(value, tuple) else (value,))]
        marks = [mark for one in chosen if isinstance(one, Open) and (mark := one.source_sha256)]
        if marks:
            found[f"{each.name}_sha256"] = marks[0] if len(marks) == 1 else marks
    return found


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as settings; a dot leads into a nested one. Values are JSON, else text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        *path, last = name.strip().split(".")
        if not sign or not last or not all(path):
            raise OptionError(f"{pair!r} is not NAME=VALUE")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        inner = settings
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise OptionError(f"{pair!r}: {part!r} is set to a value already")
        inner[last] = value
    return settings


def converted(name: str, value: Any, hint: Any) -> Any:
    """The value as the annotation wants it; OptionError where it cannot be made so.

    Known are numbers, text, paths, choices, enums, `tuple[X, ...]`, `X | None` and classes of
    options; a value of any other annotation is taken as it is.
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _one_of(name, value, get_args(hint))
    if origin is tuple:
        return _tuple(name, value, get_args(hint))
    if origin is Literal:
        if value in get_args(hint):
            return value
        raise OptionError(f"{name} is one of {_listed(get_args(hint))}, not {_shown(value)}")
    if hint is Any or not isinstance(hint, type) or origin is not None:
        return value
    if issubclass(hint, Choice | Open):
        return hint.of(value, name)
    if issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise OptionError(f"{name} is one of {_listed(hint)}, not {_shown(value)}") from None
    if is_dataclass(hint):
        return _dataclass(name, value, hint)
    if issubclass(hint, Path):
        if isinstance(value, str | Path) and str(value):
            return Path(value)
        raise OptionError(f"{name} takes a path, not {_shown(value)}")
    return _scalar(name, value, hint)


def within(name: str, value: Any, limits: Meaning) -> Any:
    """The value, where every number in it is finite and in range; OptionError otherwise."""
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, bool) or not isinstance(each, int | float):
            continue
        if isinstance(each, float) and not math.isfinite(each):
            raise OptionError(f"{name} is a finite number, not {each}")
        if limits.low is not None and each < limits.low:
            raise OptionError(f"{name} is at least {limits.low:g}, not {each:g}")
        if limits.above is not None and each <= limits.above:
            raise OptionError(f"{name} is above {limits.above:g}, not {each:g}")
        if limits.high is not None and each > limits.high:
            raise OptionError(f"{name} is at most {limits.high:g}, not {each:g}")
    return value


def _one_of(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    possible = [kind for kind in kinds if kind is not type(None)]
    for kind in possible:
        if isinstance(kind, type) and type(value) is kind:
            return value
    problem: OptionError | None = None
    for kind in possible:
        try:
            return converted(name, value, kind)
        except OptionError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str):  # `--set relations=a,b`
        value = [part.strip() for part in value.split(",") if part.strip()]
    if hasattr(value, "tolist"):  # an array
        value = value.tolist()
    items = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(converted(name, each, kinds[0]) for each in items)
    if len(items) != len(kinds):
        raise OptionError(f"{name} takes {len(kinds)} values, not {len(items)}")
    return tuple(converted(name, each, kind) for each, kind in zip(items, kinds, strict=True))


def _dataclass(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        return build(kind, value, name)
    raise OptionError(f"{name} takes a {kind.__name__} or its values, not {_shown(value)}")


def _scalar(name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, bool):  # numpy's numbers are numbers
        if kind is float and isinstance(value, Real):
            return float(value)
        if kind is int and isinstance(value, Integral):
            return int(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind in _KIND_NAMES and not fits:
        raise OptionError(f"{name} takes {_KIND_NAMES[kind]}, not {_shown(value)}")
    return value


def _check_names(kind: type, values: Mapping[str, Any], what: str) -> None:
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {_listed(names)}"
            owner = f"{what} has no" if what else "there is no"
            raise OptionError(f"{owner} option {_shown(name)}; {hint}")


def _place(what: str, name: str) -> str:
    return f"{what}.{name}" if what else name


def _listed(names: Any) -> str:
    return ", ".join(str(getattr(each, "value", each)) for each in names)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return as_dict(value)
    if isinstance(value, Open | Path):
        return str(value)
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
