"""The analyses that `kc run` knows, in the order of the paper; a user's own join them.

An analysis of your own is a value `Analysis` in a file of yours, handed to `register`. Ours are
imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from circuits.base.errors import OptionError
from circuits.base.plugins import open_table

if TYPE_CHECKING:
    from experiments.analyses.engine.base import Analysis

EVERYTHING = "all"
_ANALYSES: dict[str, "str | Analysis"] = open_table(
    {
        "circuits": "circuits",
        "flow": "flow",
        "hallucination": "hallucination",
        "icl": "icl",
        "multihop": "multihop",
        "edit-effects": "edit_effects",
        "evolution": "evolution",
        "mechanisms": "mechanisms",
        "edit-study": "edit_study",
        "unlearning": "unlearning",
        "locators": "locators",
        "stability": "stability",
    }
)
"""By name: the value, or the folder beside this one whose `analysis.py` holds it."""


def register(analysis: Analysis) -> Analysis:
    """Make an analysis known to `kc run`; OptionError where its name is taken or names no folder.

    The same value may be registered again.
    """
    from experiments.analyses.engine.context import safe

    name = analysis.name
    if name == EVERYTHING or _ANALYSES.get(name, analysis) != analysis:
        raise OptionError(f"there is an analysis {name!r} already; take another name")
    if safe(name) != name:
        raise OptionError(f"{name!r} is no name for an analysis: use letters, digits, - and _")
    _ANALYSES[name] = analysis
    return analysis


def is_ours(name: str) -> bool:
    """Whether the analysis is one of this project's."""
    return isinstance(_ANALYSES.get(name), str)


def names() -> list[str]:
    """All analyses: ours, then those that were registered."""
    return list(_ANALYSES)


def analysis(name: str) -> Analysis:
    """One analysis; OptionError with the nearest names where there is none."""
    known = _ANALYSES.get(name)
    if known is None:
        near = get_close_matches(name, _ANALYSES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_ANALYSES)}, all"
        raise OptionError(f"there is no analysis {name!r}; {hint}")
    if not isinstance(known, str):
        return known
    found: Analysis = import_module(f"experiments.analyses.{known}.analysis").ANALYSIS
    return found


def chosen(asked: Sequence[str]) -> list[Analysis]:
    """The analyses of these names; `all` stands for every one that does not take hours."""
    if list(asked) == [EVERYTHING]:
        return [found for name in _ANALYSES if not (found := analysis(name)).slow]
    return [analysis(name) for name in dict.fromkeys(asked)]
