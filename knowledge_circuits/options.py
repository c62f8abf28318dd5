"""Options of the door's verbs: the fields of the classes that the rooms below declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from circuits.base.errors import OptionError
from circuits.base.idle import Given
from circuits.base.options import build, default_of, meaning
from locate.options import Source

Verb = TypeVar("Verb", bound=Callable[..., Any])
_WHAT = ("relation", "facts", "pairs", "task")
"""Fields of a source that `what` fills."""
ONE_SIDE = {"hold_out": 0.0}
"""What is fixed where nothing is fitted: no subject is kept for a test."""


class Asked(NamedTuple):
    """What a caller asked for: the options of a source, other options, and which were given."""

    source: dict[str, Any]
    chosen: list[Any]
    given: Given


def takes(
    *kinds: type, fixed: Mapping[str, Any] = MappingProxyType({}), **usual: Any
) -> Callable[[Verb], Verb]:
    """The verb's options are the fields of these classes: in its signature and its docstring.

    Those that are `fixed` are none; `usual` are other defaults than the classes'.
    """

    def told(verb: Verb) -> Verb:
        own = inspect.signature(verb)
        kept = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        names = {each.name for each in kept}
        added, lines = [], []
        for kind in kinds:
            for each in fields(kind):
                if each.name in {*names, *fixed} or (kind is Source and each.name in _WHAT):
                    continue
                names.add(each.name)
                default = usual.get(each.name, default_of(each))
                added.append(
                    inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default)
                )
                lines.append(f"        {each.name} ({default}): {meaning(each).text}")
        verb.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        verb.__doc__ = "\n".join([str(verb.__doc__).rstrip(), "", "    Options:", *lines, ""])
        return verb

    return told


def split(
    values: dict[str, Any],
    *kinds: type,
    fixed: Mapping[str, Any] = MappingProxyType({}),
    **usual: Any,
) -> Asked:
    """The options of a source by name, and a value of every other class.

    `usual` holds where no value is given, and what is `fixed` is no option. OptionError for an
    option that no class has, and for one without effect beside the others of its class; those of a
    source are not held against each other yet.
    """
    names = {kind: {each.name for each in fields(kind)} for kind in kinds}  # type: ignore[arg-type]
    known = {name for each in names.values() for name in each} - {*_WHAT, *fixed}
    for name in values:
        if name not in known and not (name == "relation" and Source in kinds):
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise OptionError(f"there is no option {name!r}; {hint}")
    whole = {**usual, **fixed, **values}
    parts = {
        kind: {name: value for name, value in whole.items() if name in names[kind]}
        for kind in kinds
    }
    given = Given(values)
    chosen: list[Any] = [build(kind, part) for kind, part in parts.items() if kind is not Source]
    given.check(*chosen)
    return Asked(parts.get(Source, {}), chosen, given)
