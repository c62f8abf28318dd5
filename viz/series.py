"""What a figure shows, taken from a result once and drawn twice: on paper and on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from viz.asked import metric_name

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from locate.changes.rewired import Rewiring
    from locate.states.lens_curves import AverageLens
    from locate.states.trace_result import Trace
    from locate.states.trace_roles import AverageTrace


@dataclass(frozen=True, eq=False)
class Line:
    """Values by state (0 is the embedding), with limits where there are any.

    Lines of one `tone` have the same colour, the theme's of that number.
    """

    values: Float[np.ndarray, " state"]
    low: Float[np.ndarray, " state"] | None = None
    high: Float[np.ndarray, " state"] | None = None
    tone: int = 0
    dashed: bool = False


@dataclass(frozen=True, eq=False)
class LensLines:
    """Ranks (0 is the top) and probabilities by position and by what is followed."""

    ranks: Mapping[str, Mapping[str, Line]]
    probabilities: Mapping[str, Mapping[str, Line]]

    @property
    def places(self) -> tuple[str, ...]:
        """The positions that were read."""
        return tuple(self.ranks)


def lens_lines(lens: Any) -> LensLines:
    """What a lens on one prompt says, or one over facts: medians and means with intervals."""
    from locate.states.lens_curves import AverageLens

    if isinstance(lens, AverageLens):
        return LensLines(*(_averages(lens, of) for of in (lens.median_rank, lens.mean_probability)))
    sides = [
        {
            place: {
                label: Line(values[:, row, column].astype(float), tone=column)
                for column, label in enumerate(lens.labels)
            }
            for row, place in enumerate(lens.positions)
        }
        for values in (lens.rank, lens.probability)
    ]
    return LensLines(*sides)


def _averages(average: AverageLens, statistic: Any) -> dict[str, dict[str, Line]]:
    side: dict[str, dict[str, Line]] = {}
    for place in average.places:
        curves = [(str(what), statistic(place, what)) for what in average.followed]
        side[str(place)] = {
            label: Line(curve.value, curve.low, curve.high, tone)
            for tone, (label, curve) in enumerate(curves)
        }
    return side


def lens_rows(lines: LensLines) -> list[dict[str, Any]]:
    """One record a position, token and state; rank 1 is the top."""
    return [
        {
            "layer": state - 1,
            "position": place,
            "token": label,
            "rank": float(rank) + 1,
            "probability": float(lines.probabilities[place][label].values[state]),
        }
        for place, labels in lines.ranks.items()
        for label, line in labels.items()
        for state, rank in enumerate(line.values)
    ]


def object_lines(rewiring: Rewiring) -> LensLines:
    """An edit's new and old object, before (dashed) and after: medians and means over prompts.

    Of a comparison on a relation they are the foil and the answer.
    """
    from locate.changes.rewired import LABELS, SIDES

    followed, objects = rewiring.followed, dict(zip(LABELS, rewiring.objects, strict=True))
    sides = [
        {
            place: {
                f"{objects[label]}, {model}": Line(
                    values[side, :, row, LABELS.index(label)].astype(float),
                    tone=tone,
                    dashed=model == "before",
                )
                for tone, label in enumerate(reversed(LABELS))
                for side, model in enumerate(SIDES)
            }
            for row, place in enumerate(followed.places)
        }
        for values in (np.median(followed.rank, 1), followed.probability.mean(1))
    ]
    return LensLines(*sides)


@dataclass(frozen=True, eq=False)
class EffectMaps:
    """Indirect effects by kind of state, the rows' names, and which are the subject's or sites.

    `measure` is what effects are differences of: the probability of the answer, or a metric.
    """

    effects: Mapping[str, Float[np.ndarray, "row layer"]]
    rows: Sequence[str]
    subject: Sequence[int]
    sites: Sequence[int] = ()
    measure: str = "probability"


def effect_maps(trace: Trace | AverageTrace) -> EffectMaps:
    """A trace of one prompt by token, or an average over facts by role of the position."""
    from locate.states.trace_roles import AverageTrace

    if not isinstance(trace, AverageTrace):
        effects = {kind.label: trace.effect(kind).T for kind in trace.kinds}
        return EffectMaps(effects, trace.tokens, range(trace.subject.start, trace.subject.stop))
    present = np.flatnonzero(trace.counts)
    roles = [trace.roles[index] for index in present]
    return EffectMaps(
        {kind.label: trace.mean(kind)[present] for kind in trace.kinds},
        [str(role) for role in roles],
        subject=[row for row, role in enumerate(roles) if role.of_subject],
        sites=[row for row, role in enumerate(roles) if role.is_site],
        measure="probability" if trace.measure == "p" else metric_name(trace.measure),
    )
