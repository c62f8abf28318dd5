"""Options of the door's verbs: the fields of the classes that the rooms below declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from circuits.base.errors import OptionError
from circuits.base.options import build, default_of, meaning
from locate.options import Source

Verb = TypeVar("Verb", bound=Callable[..., Any])
_WHAT = ("relation", "facts", "pairs", "task")
"""Fields of a source that `what` fills."""
_RENAMED = {"limit": "n_pairs"}


def takes(*kinds: type, **usual: Any) -> Callable[[Verb], Verb]:
    """The verb's options are the fields of these classes: in its signature and its docstring."""

    def told(verb: Verb) -> Verb:
        own = inspect.signature(verb)
        kept = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        names = {each.name for each in kept}
        added, lines = [], []
        for kind in kinds:
            for each in fields(kind):
                name = _RENAMED.get(each.name, each.name)
                if name in names or (kind is Source and each.name in _WHAT):
                    continue
                names.add(name)
                default = usual.get(each.name, default_of(each))
                added.append(
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
                )
                lines.append(f"        {name} ({default}): {meaning(each).text}")
        verb.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        verb.__doc__ = "\n".join([str(verb.__doc__).rstrip(), "", "    Options:", *lines, ""])
        return verb

    return told


def split(values: dict[str, Any], *kinds: type) -> tuple[dict[str, Any], list[Any]]:
    """The options of a source by name, and a value of every other class; OptionError for more."""
    names = {kind: {each.name for each in fields(kind)} for kind in kinds}  # type: ignore[arg-type]
    given = {("limit" if name == "n_pairs" else name): value for name, value in values.items()}
    known = {_RENAMED.get(name, name) for each in names.values() for name in each} - set(_WHAT)
    for name in values:
        if name not in known and not (name == "relation" and Source in kinds):
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise OptionError(f"there is no option {name!r}; {hint}")
    chosen = {
        kind: {name: value for name, value in given.items() if name in names[kind]}
        for kind in kinds
    }
    return chosen.get(Source, {}), [build(k, v) for k, v in chosen.items() if k is not Source]
