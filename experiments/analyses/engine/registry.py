"""The analyses that `kc run` knows, in the order of the paper; each is imported when asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from circuits.base.errors import OptionError
from experiments.analyses.engine.base import Analysis

MODULES = {
    "circuits": "circuits",
    "flow": "flow",
    "hallucination": "hallucination",
    "icl": "icl",
    "multihop": "multihop",
    "edit-effects": "edit_effects",
    "evolution": "evolution",
    "mechanisms": "mechanisms",
}


def analysis(name: str) -> Analysis:
    """One analysis; OptionError with the nearest names where there is none."""
    module = MODULES.get(name)
    if module is None:
        near = get_close_matches(name, MODULES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MODULES)}, all"
        raise OptionError(f"there is no analysis {name!r}; {hint}")
    found = import_module(f"experiments.analyses.{module}.analysis").ANALYSIS
    assert isinstance(found, Analysis)
    return found


def analyses() -> list[Analysis]:
    """All of them."""
    return [analysis(name) for name in MODULES]
