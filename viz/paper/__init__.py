"""Pictures for print: result in, file out; `draw` draws any stored kind of result."""

from __future__ import annotations

from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from circuits.base.errors import OptionError
from circuits.files.kinds import kind_of_result, named


def draw(result: Any, path: str | Path, what: str | None = None, **options: Any) -> Any:
    """Draw a result to SVG, PDF or PNG; `what` names one of its kind's figures, else the first.

    Options that are None are left out. OptionError for a kind without such a figure, and for an
    option that it does not know.
    """
    kind = kind_of_result(result)
    if not kind.figures or (what is not None and what not in kind.figures):
        wanted = "" if what is None else f" {what!r}"
        raise OptionError(f"a {kind.shown} has no picture{wanted} on paper")
    figure = what or next(iter(kind.figures))
    function = named(kind.figures[figure])
    if unknown := [
        name for name, each in options.items() if each is not None and not knows(function, name)
    ]:
        names = ", ".join(list(signature(function).parameters)[2:])
        raise OptionError(
            f"the picture {figure} has no option {', '.join(unknown)}; it has {names}"
        )
    return draw_with(function, result, path, options)


def draw_with(function: Any, result: Any, path: str | Path, options: dict[str, Any]) -> Any:
    """Call a drawing function with those of the options that it knows and that are not None."""
    given = {
        name: each for name, each in options.items() if each is not None and knows(function, name)
    }
    return function(result, path, **given)


def knows(function: Any, option: str) -> bool:
    """Whether a drawing function takes an option."""
    found = signature(function).parameters
    return option in found or any(each.kind == Parameter.VAR_KEYWORD for each in found.values())
