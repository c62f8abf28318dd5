"""Many traces as one picture: indirect effects by the role that a position plays.

Prompts differ in length, so traces are averaged over roles of positions, as in Figure 3 of Meng
et al. 2022. Every position has one role; the prompt's last token is `last` even where the subject
ends there, and a subject of one token is its own last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from circuits.errors import OptionError
from circuits.tokens import Span
from locate.sweep import TraceKind
from locate.tracing import Trace


class PositionRole(StrEnum):
    """What a token is to the fact."""

    BEFORE = "before subject"
    FIRST_SUBJECT = "first subject token"
    MIDDLE_SUBJECT = "middle subject tokens"
    LAST_SUBJECT = "last subject token"
    FIRST_AFTER = "first token after"
    FURTHER = "further tokens"
    LAST = "last token"


ROLES = tuple(PositionRole)
_SHARED_OPTIONS = ("model", "weights_sha256", "window", "noise", "embedding_std")


@dataclass(frozen=True, eq=False)
class AverageTrace:
    """Indirect effects of several traces; `effects[kind]` is NaN where a prompt lacks a role.

    A role that several positions of a prompt share has their mean.
    """

    effects: Mapping[TraceKind, Float[np.ndarray, "trace role layer"]]
    p_clean: Float[np.ndarray, " trace"]
    p_corrupted: Float[np.ndarray, " trace"]
    provenance: Mapping[str, Any]

    @property
    def kinds(self) -> tuple[TraceKind, ...]:
        """The kinds of state that were restored."""
        return tuple(self.effects)

    @property
    def counts(self) -> Int[np.ndarray, " role"]:
        """How many traces have each role, in the order of `ROLES`."""
        first = next(iter(self.effects.values()))
        return np.isfinite(first[:, :, 0]).sum(0)

    def mean(self, kind: TraceKind) -> Float[np.ndarray, "role layer"]:
        """Average indirect effect; NaN for a role that no prompt has."""
        return _mean(self._of(kind))

    def interval(
        self, kind: TraceKind, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> tuple[Float[np.ndarray, "role layer"], Float[np.ndarray, "role layer"]]:
        """Lower and upper end of the bootstrap interval of `mean` over traces."""
        if not 0 < level < 1:
            raise OptionError(f"an interval's level lies between 0 and 1, not {level}")
        if resamples < 1:
            raise OptionError(f"an interval needs at least 1 resample, not {resamples}")
        effects, generator = self._of(kind), np.random.default_rng(seed)
        count = len(effects)
        picks = generator.integers(count, size=(resamples, count))
        means = np.stack([_mean(effects[pick]) for pick in picks])
        tail = (1 - level) / 2
        absent = self.counts == 0
        means[:, absent] = 0  # nanquantile warns where there is nothing to rank
        low, high = np.nanquantile(means, [tail, 1 - tail], axis=0)
        low[absent], high[absent] = np.nan, np.nan
        return low, high

    def rows(self) -> list[dict[str, Any]]:
        """One record a kind, role and layer, for tables; roles that no prompt has are left out."""
        records = []
        for kind in self.kinds:
            mean, (low, high) = self.mean(kind), self.interval(kind)
            for index, layer in np.ndindex(*mean.shape):
                if self.counts[index]:
                    records.append(
                        {
                            "kind": str(kind),
                            "role": str(ROLES[index]),
                            "layer": layer,
                            "effect": float(mean[index, layer]),
                            "low": float(low[index, layer]),
                            "high": float(high[index, layer]),
                            "traces": int(self.counts[index]),
                        }
                    )
        return records

    def _of(self, kind: TraceKind) -> Float[np.ndarray, "trace role layer"]:
        if kind not in self.effects:
            raise OptionError(f"kind {kind!s} was not traced, only {', '.join(self.kinds)}")
        return self.effects[kind]


def position_roles(length: int, subject: Span) -> tuple[PositionRole, ...]:
    """The role of each position of a prompt."""

    def role(position: int) -> PositionRole:
        if position == length - 1:
            return PositionRole.LAST
        if position < subject.start:
            return PositionRole.BEFORE
        if position == subject.last:
            return PositionRole.LAST_SUBJECT
        if position == subject.start:
            return PositionRole.FIRST_SUBJECT
        if position < subject.last:
            return PositionRole.MIDDLE_SUBJECT
        return PositionRole.FIRST_AFTER if position == subject.stop else PositionRole.FURTHER

    return tuple(role(position) for position in range(length))


def average_traces(traces: Sequence[Trace]) -> AverageTrace:
    """Average traces of one model and one setting; OptionError where they do not go together."""
    if not traces:
        raise OptionError("there are no traces to average")
    first = traces[0]
    for other in traces[1:]:
        if set(other.kinds) != set(first.kinds):
            raise OptionError("traces of different kinds of state cannot be averaged")
        for name in _SHARED_OPTIONS:
            ours, theirs = first.provenance.get(name), other.provenance.get(name)
            if ours != theirs:
                raise OptionError(
                    "traces cannot be averaged: "
                    f"{name} is {ours!r} in one and {theirs!r} in another"
                )
    effects = {kind: np.stack([_by_role(found, kind) for found in traces]) for kind in first.kinds}
    return AverageTrace(
        effects=effects,
        p_clean=np.array([found.p_clean for found in traces]),
        p_corrupted=np.array([found.p_corrupted for found in traces]),
        provenance={**first.provenance, "prompts": [found.prompt for found in traces]},
    )


def _by_role(found: Trace, kind: TraceKind) -> Float[np.ndarray, "role layer"]:
    roles = np.array(position_roles(len(found.tokens), found.subject))
    effect = found.effect(kind).T
    by_role = np.full((len(ROLES), effect.shape[1]), np.nan)
    for index, role in enumerate(ROLES):
        here = roles == role
        if here.any():
            by_role[index] = effect[here].mean(0)
    return by_role


def _mean(effects: Float[np.ndarray, "trace role layer"]) -> Float[np.ndarray, "role layer"]:
    """Mean over the traces that have the role."""
    there = np.isfinite(effects)
    count = there.sum(0)
    total = np.where(there, effects, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
