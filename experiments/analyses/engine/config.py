"""Options of an analysis: a frozen dataclass with defaults and one-line meanings, and YAML.

A YAML file holds some of the options; what it leaves out keeps its default. An unknown key or a
value of another type is a mistake that costs one line.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from circuits.base.errors import FileFormatError, OptionError

NOTHING = "–"
"""What an option without a value shows."""
CONFIG_DIR = Path(__file__).parent / "configs"
Config = TypeVar("Config")


def option(default: Any, meaning: str, selects: bool = False) -> Any:
    """A field of a config. `selects`: it chooses units of work and does not change any of them."""
    return field(default=default, metadata={"meaning": meaning, "selects": selects})


def read_config(kind: type[Config], path: Path) -> Config:
    """A config from a YAML file; FileFormatError says what is wrong with it."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(path, error.strerror or str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileFormatError(path, f"is no YAML: {' '.join(str(error).split())}") from None
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise FileFormatError(path, "holds no options, one `name: value` a line")
    try:
        return changed(kind(), {str(name): value for name, value in given.items()})
    except OptionError as error:
        raise FileFormatError(path, str(error)) from None


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """The config with `name=value` applied; values are read as YAML."""
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise OptionError(f"--set takes NAME=VALUE, not {setting!r}")
        try:
            given[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise OptionError(f"--set {name}: {text!r} is no YAML value") from None
    return changed(config, given)


def changed(config: Config, given: Mapping[str, Any]) -> Config:
    """The config with other values; OptionError for an unknown name or a value of another type."""
    kind = type(config)
    hints = get_type_hints(kind)
    names = [each.name for each in fields(config)]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise OptionError(f"there is no option {name!r}; {hint}")
    values = {name: _converted(name, value, hints[name]) for name, value in given.items()}
    return replace(config, **values)  # type: ignore[type-var]


def as_dict(config: Any, selecting: bool = True) -> dict[str, Any]:
    """The options as plain values; without those that only select, where `selecting` is false."""
    return {
        each.name: _plain(getattr(config, each.name))
        for each in fields(config)
        if selecting or not each.metadata.get("selects")
    }


def meanings(config: Any) -> dict[str, str]:
    """What each option means."""
    return {each.name: each.metadata.get("meaning", "") for each in fields(config)}


def as_yaml(config: Any) -> str:
    """The options with their meanings as comments, as the files in `configs/` hold them."""
    lines = []
    for name, value in as_dict(config).items():
        meaning = meanings(config)[name]
        lines += [f"# {meaning}"] if meaning else []
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
        lines.append(f"{name}: {text.removesuffix('...').strip()}")
    return "\n".join(lines) + "\n"


def option_text(value: Any) -> str:
    """A plain value for readers: lists with commas, yes and no, a dash for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NOTHING
    return NOTHING if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _converted(name: str, value: Any, kind: Any) -> Any:
    """The value as the annotation wants it: a plain type, an enum, tuple[X, ...] or X | None."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = get_args(kind)
        if value is None and type(None) in kinds:
            return None
        return _converted(name, value, next(each for each in kinds if each is not type(None)))
    if get_origin(kind) is tuple:
        if isinstance(value, str):  # `--set relations=a,b`
            value = [part.strip() for part in value.split(",") if part.strip()]
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_converted(name, each, get_args(kind)[0]) for each in items)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(str(each.value) for each in kind)
            raise OptionError(f"{name} is one of {known}, not {value!r}") from None
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise OptionError(f"{name} takes {_KIND_NAMES.get(kind, kind)}, not {value!r}")
    return value


_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
