"""Options of an analysis from YAML and from `--set`, and back.

An analysis declares its options as in `circuits.base.options`. A YAML file holds some of them; what
it leaves out keeps its default. An unknown key or a value of another type is a mistake that costs
one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.options import as_dict, changed, meanings, option, sources, types_of
from circuits.base.records import read_text

NOTHING = "–"
"""What an option without a value shows."""
MAX_BYTES = 2**20
DEEPEST = 8
Config = TypeVar("Config")


def relations_drawn() -> Any:
    """The option of how many relations are drawn (`Context.names`)."""
    text = "relations drawn where none is named; 0: all; none given: all, in a large model 24"
    return option(None, text, low=0, selects=True)


class _Loader(yaml.SafeLoader):
    """Plain values only: no alias, which could repeat a value without end, no tag, few levels."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value, where it is a plain one."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError("aliases are not read")
        if getattr(event, "tag", None):
            raise yaml.YAMLError("tags are not read")
        if self.depth >= DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_config(kind: type[Config], path: Path) -> Config:
    """A config from a YAML file; FileFormatError says what is wrong with it."""
    try:
        given = _parsed(read_text(path, MAX_BYTES))
    except OptionError as error:
        raise FileFormatError(path, f"is no YAML: {error}") from None
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise FileFormatError(path, "holds no options, one `name: value` a line")
    try:
        return changed(kind(), {str(name): value for name, value in given.items()})
    except OptionError as error:
        raise FileFormatError(path, str(error)) from None


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """The config with `name=value` applied; values are YAML, several of them with commas."""
    hints, given = types_of(type(config)), {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise OptionError(f"`settings` takes NAME=VALUE, not {setting:.60}")
        several = get_origin(hints.get(name)) is tuple and not text.startswith("[")
        try:
            given[name] = _parsed(f"[{text}]" if several else text)
        except OptionError as error:
            raise OptionError(f"`settings` {name:.60}: no YAML value: {error}") from None
    return changed(config, given)


def deciding(config: Any) -> dict[str, Any]:
    """The options that change a unit's values, and not only which units there are.

    Of functions of the user's own they hold a hash of the source, of all that are named.
    """
    known = meanings(config)
    chosen = {name: value for name, value in as_dict(config).items() if not known[name].selects}
    return chosen | sources(config)


def as_yaml(config: Any) -> str:
    """The options with their meanings as comments; `read_config` reads it."""
    lines = []
    for name, value in as_dict(config).items():
        meaning = meanings(config)[name].text
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


def _parsed(text: str) -> Any:
    """A YAML text's value; OptionError, in one line, where it has none or more than plain ones."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no date, more digits than are read
        raise OptionError(f"{' '.join(str(error).split()):.160}") from None
