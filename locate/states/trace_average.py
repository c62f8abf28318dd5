"""Many traces as one picture: indirect effects by the role that a position plays.

Prompts differ in length, so traces are averaged over roles of positions, as in Figure 3 of Meng
et al. 2022. Every position has one role; the prompt's last token is `last` even where the subject
ends there, and a subject of one token is its own last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.choices import NoiseUnit, TraceKind
from circuits.base.errors import OptionError
from circuits.facts.pairs import TokenPair
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tokens import Span
from locate.heads.attention import check_subjects
from locate.heads.observed import of_clean_prompts
from locate.states.noise import noise_std
from locate.states.trace_result import Trace
from locate.states.trace_roles import BEFORE_DIFFERENCE, ROLES, AverageTrace, Place, PositionRole
from locate.states.tracing import trace_tokens

_DIFFERENT = "other differing tokens"
_SHARED_OPTIONS = ("model", "weights_sha256", "window", "noise", "embedding_std")


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
    """Average traces of one model and one setting; OptionError where they do not go together.

    Each counts as an observation of its own; `trace_facts` knows which pairs ask one fact.
    """
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


@alone
def trace_facts(
    model: Model,
    pairs: Sequence[TokenPair],
    *,
    seed: int = 0,
    noise_unit: NoiseUnit | str | float = NoiseUnit.MATRIX,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> AverageTrace:
    """Trace the clean prompt of every pair and average; `options` are `locate.states.tracing`'s.

    `noise_unit` "subjects" is the standard deviation of the embeddings of all pairs' subjects.
    The noise of the fact at place i has the seed `seed` + i, so that facts are independent draws.
    Where no pair names a subject, clean states are put into the corrupted run instead, and noise
    and samples play no part (`locate.states.patching`). OptionError where only some name one.
    """
    if pairs and all(pair.subject is None for pair in pairs):
        from locate.states.patching import patch_pairs

        chosen = {
            name: options[name] for name in ("kinds", "window", "max_rows") if name in options
        }
        return patch_pairs(model, pairs, progress=progress, **chosen)
    check_subjects(pairs)
    subjects = dict.fromkeys(str(pair.text.named_subject) for pair in pairs)
    unit = noise_std(model, noise_unit, list(subjects))
    traces = []
    for place, pair in enumerate(pairs):
        assert pair.subject is not None, "checked above"
        asked = (pair.clean, pair.subject, pair.text.answer, pair.answer)
        traces.append(trace_tokens(model, *asked, noise_unit=unit, seed=seed + place, **options))
        if progress is not None:
            progress(place + 1, len(pairs))
    average = average_traces(traces)
    origin = {**average.provenance, "noise_unit": str(noise_unit), **of_clean_prompts(pairs)}
    return replace(average, provenance=origin)


def _by_role(found: Trace, kind: TraceKind) -> Float[np.ndarray, "role layer"]:
    return by_name(found.effect(kind), position_roles(len(found.tokens), found.subject), ROLES)


def by_name(
    effect: Float[np.ndarray, "layer pos"], names: Sequence[str], order: Sequence[str]
) -> Float[np.ndarray, "role layer"]:
    """Effects averaged over the positions of each name; NaN for one that no position has."""
    there = np.array(names)
    found = np.full((len(order), effect.shape[0]), np.nan)
    for index, name in enumerate(order):
        here = there == name
        if here.any():
            found[index] = effect[:, here].mean(1)
    return found


def places_of(pair: TokenPair) -> tuple[Place, ...]:
    """Each position's place: in a named span, or by where the two prompts differ."""
    ids = zip(pair.clean.ids, pair.corrupted.ids, strict=True)
    first, last = pair.first_difference, len(pair.clean) - 1

    def place(position: int, differs: bool) -> str:
        if position == last:
            return PositionRole.LAST
        for name, span in pair.spans:
            if span.start <= position < span.stop:
                return name
        if differs:
            return _DIFFERENT
        return BEFORE_DIFFERENCE if position < first else PositionRole.FURTHER

    return tuple(Place(place(at, left != right)) for at, (left, right) in enumerate(ids))


def order_of(pairs: Sequence[TokenPair]) -> tuple[Place, ...]:
    """The places of all pairs: spans in the order of the first pair that names them."""
    spans = dict.fromkeys(name for pair in pairs for name, _ in pair.spans)
    names = (BEFORE_DIFFERENCE, *spans, _DIFFERENT, PositionRole.FURTHER, PositionRole.LAST)
    return tuple(map(Place, names))
