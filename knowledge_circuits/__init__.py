"""Knowledge circuits: the parts of a language model that recall a fact, found, tested, changed.

    import knowledge_circuits as kc

    model = kc.load("facts-gpt2")
    found = kc.discover(model, "country_capital")
    found.plot()

Every verb has a docstring with an example. Nothing is imported before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits.base.errors import KnowledgeCircuitsError, OptionError
    from circuits.edits.edit import EditRequest, WeightDelta
    from circuits.facts.facts import Fact, Relation, relation
    from circuits.facts.pairs import PromptPair
    from circuits.graph.circuit import Circuit, EdgeScores
    from circuits.graph.compare import Comparison
    from circuits.model.model import Model
    from knowledge_circuits.verbs import (
        ask,
        compare,
        discover,
        edit,
        evaluate,
        explore,
        facts,
        lens,
        load,
        models,
        open,
        plot,
        relations,
        roles,
        save,
        trace,
        unlearn,
    )
    from locate.changes.rewiring import Rewiring
    from locate.discovery import Discovery
    from locate.edited import Edited
    from locate.evaluate import StoredEvaluation
    from locate.heads.roles import RoleReport
    from locate.states.lens import LensResult
    from locate.states.lens_average import AverageLens
    from locate.states.trace_average import AverageTrace
    from locate.states.tracing import Trace

_VERBS = (
    *("ask", "compare", "discover", "edit", "evaluate", "explore", "facts", "lens", "load"),
    *("models", "open", "plot", "relations", "roles", "save", "trace", "unlearn"),
)
_PLACES = {
    **dict.fromkeys(_VERBS, "knowledge_circuits.verbs"),
    **dict.fromkeys(("Fact", "Relation", "relation"), "circuits.facts.facts"),
    **dict.fromkeys(("KnowledgeCircuitsError", "OptionError"), "circuits.base.errors"),
    **dict.fromkeys(("EditRequest", "WeightDelta"), "circuits.edits.edit"),
    **dict.fromkeys(("Circuit", "EdgeScores"), "circuits.graph.circuit"),
    "AverageLens": "locate.states.lens_average",
    "AverageTrace": "locate.states.trace_average",
    "Comparison": "circuits.graph.compare",
    "Discovery": "locate.discovery",
    "Edited": "locate.edited",
    "LensResult": "locate.states.lens",
    "Model": "circuits.model.model",
    "PromptPair": "circuits.facts.pairs",
    "Rewiring": "locate.changes.rewiring",
    "RoleReport": "locate.heads.roles",
    "StoredEvaluation": "locate.evaluate",
    "Trace": "locate.states.tracing",
}
"""Where each name of the door is defined."""

__all__ = [
    "AverageLens",
    "AverageTrace",
    "Circuit",
    "Comparison",
    "Discovery",
    "EdgeScores",
    "EditRequest",
    "Edited",
    "Fact",
    "KnowledgeCircuitsError",
    "LensResult",
    "Model",
    "OptionError",
    "PromptPair",
    "Relation",
    "Rewiring",
    "RoleReport",
    "StoredEvaluation",
    "Trace",
    "WeightDelta",
    "ask",
    "compare",
    "discover",
    "edit",
    "evaluate",
    "explore",
    "facts",
    "lens",
    "load",
    "models",
    "open",
    "plot",
    "relation",
    "relations",
    "roles",
    "save",
    "trace",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'knowledge_circuits' has no attribute {name!r}")
    from knowledge_circuits.rooms import check_rooms

    check_rooms()
    import_module("viz").offer()
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
