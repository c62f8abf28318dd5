"""What heads do: of facts by subject and relation, of pairs without a subject by their spans."""

from __future__ import annotations

from typing import Any

from circuits.base.choices import Ablation
from circuits.base.idle import Given
from circuits.graph.circuit import Circuit
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.examples import Examples
from locate.heads.role_report import RoleReport
from locate.heads.roles import head_roles
from locate.heads.span_roles import SpanRoles, span_roles
from locate.idle import ROLES_BY_SPAN
from locate.looks.look import about


@alone
def roles_of(
    model: Model,
    examples: Examples,
    circuit: Circuit | None = None,
    ablation: Ablation | str = Ablation.ZERO,
    *,
    batch_size: int = 16,
    seed: int = 0,
    given: Given = Given(),
) -> RoleReport | SpanRoles:
    """The heads that have a role in the examples, checked by `ablation`; of a `circuit` its own.

    OptionError for either, and for what was `given` of them, on pairs without a subject: by span
    all heads are told, and none is ablated.
    """
    ablation, pairs = Ablation.of(ablation, "ablation"), examples.pairs
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
    if all(pair.subject is None for pair in pairs):
        other = None if ablation == Ablation.ZERO else ablation
        given.also(circuit=circuit, ablation=other).refuse(ROLES_BY_SPAN)
        return about(span_roles(model, pairs, **how), examples)
    return about(head_roles(model, pairs, circuit=circuit, ablation=ablation, **how), examples)
