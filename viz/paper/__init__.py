"""Pictures for print: result in, file out; `draw` draws any stored kind of result."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from circuits.base.errors import OptionError
from circuits.files.kinds import kind_of_result, named


def draw(result: Any, path: str | Path, what: str | None = None, **options: Any) -> Any:
    """Draw a result to SVG, PDF or PNG; `what` names one of its kind's figures, else the first.

    Options that are None, and those that this figure does not know, are left out. OptionError for
    a kind without such a figure.
    """
    kind = kind_of_result(result)
    if not kind.figures or (what is not None and what not in kind.figures):
        wanted = "" if what is None else f" {what!r}"
        raise OptionError(f"a {kind.shown} has no picture{wanted} on paper")
    return draw_with(named(kind.figures[what or next(iter(kind.figures))]), result, path, options)


def draw_with(function: Any, result: Any, path: str | Path, options: dict[str, Any]) -> Any:
    """Call a drawing function with those of the options that it knows and that are not None."""
    known = signature(function).parameters
    given = {name: each for name, each in options.items() if each is not None and name in known}
    return function(result, path, **given)
