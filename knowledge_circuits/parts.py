"""What files of a user's own are made of, as `knowledge_circuits.seams` adds them.

    from knowledge_circuits.parts import Options, option

Nothing is imported before a name is used.
"""

from __future__ import annotations

from typing import Any

from knowledge_circuits import fetch

PLACES = {
    **dict.fromkeys(("Options", "option"), "circuits.base.options"),
    "Summary": "circuits.base.display",
    **dict.fromkeys(("Result", "numeric"), "circuits.base.results"),
    "Interval": "circuits.base.intervals",
    **dict.fromkeys(
        ("Trainee", "negative_log_likelihood", "passage"), "circuits.edits.parts.training"
    ),
    "attribute": "locate.edges.eap",
    "canvas": "viz.paper",
    **dict.fromkeys(
        ("Analysis", "Figure", "Report", "Section", "SkipError"),
        "experiments.analyses.engine.base",
    ),
    **dict.fromkeys(
        ("Claim", "above", "average", "difference", "share"), "experiments.analyses.engine.claims"
    ),
    "Table": "experiments.analyses.engine.tables",
}
"""Where each name is defined."""


def __getattr__(name: str) -> Any:
    return fetch(__name__, PLACES, name)


def __dir__() -> list[str]:
    return sorted(PLACES)
