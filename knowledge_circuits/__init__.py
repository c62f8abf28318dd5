"""Knowledge circuits: the parts of a language model that recall a fact, found, tested, changed.

    import knowledge_circuits as kc

    model = kc.load("facts-gpt2")
    found = kc.discover(model, "country_capital")
    found.plot()

Every verb has a docstring with an example. Nothing is imported before a name is used.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits.base.errors import KnowledgeCircuitsError, OptionError
    from circuits.base.plugins import load_plugin
    from circuits.edits.edit import EditRequest, WeightDelta
    from circuits.facts.facts import Fact, Relation, relation
    from circuits.facts.pairs import PromptPair
    from circuits.graph.circuit import Circuit
    from circuits.graph.circuit_model import CircuitModel
    from circuits.graph.comparison import Comparison
    from circuits.graph.scores import EdgeScores
    from circuits.model.model import Model
    from experiments.analyses.engine.base import Run
    from knowledge_circuits.acts import activations, interchange
    from knowledge_circuits.changes import compare, edit, unlearn
    from knowledge_circuits.looks import (
        attribution,
        carriers,
        heads,
        lens,
        neurons,
        roles,
        trace,
    )
    from knowledge_circuits.seams import analysis, edit_method, locator, metric, result_kind
    from knowledge_circuits.verbs import (
        ask,
        discover,
        evaluate,
        explore,
        facts,
        load,
        models,
        open,
        plot,
        push,
        relations,
        run,
        save,
    )
    from locate.changes.rewired import Rewiring
    from locate.discovery import Discovery
    from locate.edited import Edited
    from locate.evaluate import StoredEvaluation
    from locate.features.carriers import Carriers
    from locate.features.directions import Directions
    from locate.heads.heads_on_prompts import HeadsOnPrompts
    from locate.heads.role_report import RoleReport
    from locate.interchange import Interchange
    from locate.neurons.report import NeuronReport
    from locate.states.lens_curves import AverageLens
    from locate.states.lens_result import LensResult
    from locate.states.logit_attribution import LogitAttribution
    from locate.states.steering import patched
    from locate.states.trace_result import Trace
    from locate.states.trace_roles import AverageTrace

_VERBS = (
    *("ask", "discover", "evaluate", "explore", "facts", "load", "models"),
    *("open", "plot", "push", "relations", "run", "save"),
)
_CHANGES = ("compare", "edit", "unlearn")
_LOOKS = ("attribution", "carriers", "heads", "lens", "neurons", "roles", "trace")
_ACTS = ("activations", "interchange")
_SEAMS = ("analysis", "edit_method", "locator", "metric", "result_kind")
_PLACES = {
    **dict.fromkeys(_VERBS, "knowledge_circuits.verbs"),
    **dict.fromkeys(_CHANGES, "knowledge_circuits.changes"),
    **dict.fromkeys(_LOOKS, "knowledge_circuits.looks"),
    **dict.fromkeys(_ACTS, "knowledge_circuits.acts"),
    **dict.fromkeys(_SEAMS, "knowledge_circuits.seams"),
    "load_plugin": "circuits.base.plugins",
    **dict.fromkeys(("Fact", "Relation", "relation"), "circuits.facts.facts"),
    **dict.fromkeys(("KnowledgeCircuitsError", "OptionError"), "circuits.base.errors"),
    **dict.fromkeys(("EditRequest", "WeightDelta"), "circuits.edits.edit"),
    **dict.fromkeys(("Circuit", "EdgeScores"), "circuits.graph.circuit"),
    "AverageLens": "locate.states.lens_curves",
    "AverageTrace": "locate.states.trace_roles",
    "Carriers": "locate.features.carriers",
    "CircuitModel": "circuits.graph.circuit_model",
    "Comparison": "circuits.graph.comparison",
    "Directions": "locate.features.directions",
    "Discovery": "locate.discovery",
    "Edited": "locate.edited",
    "Interchange": "locate.interchange",
    "HeadsOnPrompts": "locate.heads.heads_on_prompts",
    "LensResult": "locate.states.lens_result",
    "LogitAttribution": "locate.states.logit_attribution",
    "Model": "circuits.model.model",
    "NeuronReport": "locate.neurons.report",
    "PromptPair": "circuits.facts.pairs",
    "Rewiring": "locate.changes.rewired",
    "RoleReport": "locate.heads.role_report",
    "Run": "experiments.analyses.engine.base",
    "StoredEvaluation": "locate.evaluate",
    "Trace": "locate.states.trace_result",
    "patched": "locate.states.steering",
}
"""Where each name of the door is defined."""

__all__ = [
    "AverageLens",
    "AverageTrace",
    "Carriers",
    "Circuit",
    "CircuitModel",
    "Comparison",
    "Directions",
    "Discovery",
    "EdgeScores",
    "EditRequest",
    "Edited",
    "Fact",
    "HeadsOnPrompts",
    "Interchange",
    "KnowledgeCircuitsError",
    "LensResult",
    "LogitAttribution",
    "Model",
    "NeuronReport",
    "OptionError",
    "PromptPair",
    "Relation",
    "Rewiring",
    "RoleReport",
    "Run",
    "StoredEvaluation",
    "Trace",
    "WeightDelta",
    "activations",
    "analysis",
    "ask",
    "attribution",
    "carriers",
    "compare",
    "discover",
    "edit",
    "edit_method",
    "evaluate",
    "explore",
    "facts",
    "heads",
    "interchange",
    "lens",
    "load",
    "load_plugin",
    "locator",
    "metric",
    "models",
    "neurons",
    "open",
    "patched",
    "plot",
    "push",
    "relation",
    "relations",
    "result_kind",
    "roles",
    "run",
    "save",
    "trace",
    "unlearn",
]


def _quieten_tqdm() -> None:
    """Have tqdm, which the hub's libraries import, miss its widget in a notebook without a word.

    No verb of ours shows its bar there.
    """
    if "ipykernel" in sys.modules and "tqdm.auto" not in sys.modules:
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.filterwarnings("ignore", "IProgress not found")
            import_module("tqdm.auto")


def fetch(module: str, places: Mapping[str, str], name: str) -> Any:
    """What a module of the door offers by this name, imported now and kept."""
    if name not in places:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    from knowledge_circuits.rooms import check_rooms

    check_rooms()
    import_module("viz").offer()
    _quieten_tqdm()
    home = import_module(places[name])
    value = getattr(home, name, None) or import_module(f"{places[name]}.{name}")
    setattr(sys.modules[module], name, value)
    return value


def __getattr__(name: str) -> Any:
    return fetch(__name__, _PLACES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
