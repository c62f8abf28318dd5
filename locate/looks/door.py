"""A result's folder, by what the result is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from circuits.base.errors import OptionError
from circuits.graph.comparison import Comparison
from locate.changes.rewired import Rewiring
from locate.discovery import Discovery
from locate.edited import Edited
from locate.evaluate import StoredEvaluation
from locate.features.carriers import Carriers
from locate.heads.heads_on_prompts import HeadsOnPrompts
from locate.heads.role_report import RoleReport
from locate.heads.span_roles import SpanRoles
from locate.looks import carriers, comparing, lens, neurons, roles, trace
from locate.looks.look import Look
from locate.neurons.report import NeuronReport
from locate.states.lens_curves import AverageLens
from locate.states.lens_result import LensResult
from locate.states.logit_attribution import LogitAttribution
from locate.states.trace_result import Trace
from locate.states.trace_roles import AverageTrace

_LOOKS: dict[type, tuple[Callable[[Any], Look], Sequence[str]]] = {
    Trace: (trace.prompt_trace, trace.FILES),
    AverageTrace: (trace.average_trace, trace.FILES),
    LensResult: (lens.prompt_lens, lens.FILES),
    AverageLens: (lens.average_lens, lens.FILES),
    LogitAttribution: (lens.attributed, lens.FILES),
    Carriers: (carriers.carriers, carriers.FILES),
    RoleReport: (roles.roles, roles.FILES),
    SpanRoles: (roles.roles_by_span, roles.FILES),
    HeadsOnPrompts: (roles.on_prompts_look, roles.FILES),
    NeuronReport: (neurons.neurons, neurons.FILES),
    Comparison: (comparing.circuits_look, comparing.FILES),
    Rewiring: (comparing.edit_look, comparing.FILES),
}


def write(result: Any, folder: Path) -> list[Path]:
    """The files of the command that gives such a result, whole or not at all; their paths."""
    known = _LOOKS.get(type(result))
    if known is not None:
        look, files = known
        return look(result).write(folder, files)
    if not isinstance(result, Discovery | Edited | StoredEvaluation):
        raise OptionError(
            f"a {type(result).__name__} has no folder; name a file that ends in .kc.safetensors"
        )
    found: list[Path] = result.save(folder)
    return found
