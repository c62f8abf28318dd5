"""Kinds of components, of which heads are told apart by their roles."""

from __future__ import annotations

from collections.abc import Mapping

from circuits.model.wiring import node_kind
from locate.heads.head_check import Role

MOVERS, RELATION, HEADS, MLPS, EMBEDDING = GROUPS = (
    "mover heads",
    "relation heads",
    "other heads",
    "MLPs",
    "embedding",
)
BY_ROLE = (MOVERS, RELATION, HEADS)
"""The groups into which roles part the heads. Of a relation in which no head is known to be a mover
nothing is said of them: what its movers write would stand with the other heads."""


def is_mover(role: str) -> bool:
    """Whether a head of this role brings the object to the last token."""
    return role in (Role.MOVER, Role.MIXTURE)


def group_of(name: str, roles: Mapping[str, str]) -> str:
    """The group of a source."""
    kind, role = node_kind(name), roles.get(name, "")
    if kind != "head":
        return MLPS if kind == "mlp" else EMBEDDING
    if is_mover(role):
        return MOVERS
    return RELATION if role == Role.RELATION else HEADS
