"""Causal traces averaged over prompts, as a value; `locate.states.trace_average` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuits.base.choices import Choice, TraceKind
from circuits.base.display import Summary, named, plotted
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, bootstrap_means
from circuits.base.origin import unit_of
from circuits.base.results import Result, numeric, texts
from locate.states.observed import groups_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

BEFORE_DIFFERENCE = "before the first difference"


class PositionRole(Choice):
    """What a token is to the fact."""

    BEFORE = "before subject"
    FIRST_SUBJECT = "first subject token"
    MIDDLE_SUBJECT = "middle subject tokens"
    LAST_SUBJECT = "last subject token"
    FIRST_AFTER = "first token after"
    FURTHER = "further tokens"
    LAST = "last token"

    @property
    def of_subject(self) -> bool:
        """Whether such a position belongs to the subject."""
        return self in (self.FIRST_SUBJECT, self.MIDDLE_SUBJECT, self.LAST_SUBJECT)

    @property
    def is_site(self) -> bool:
        """Whether Meng et al. found a site there: early at the subject's end, late at the last."""
        return self in (self.LAST_SUBJECT, self.LAST)


class Place(str):
    """A place in a prompt without a subject: a span that the pairs name, or what lies around."""

    of_subject = False

    @property
    def is_site(self) -> bool:
        """Whether to point at its peak: at all but what lies around."""
        return self not in (PositionRole.BEFORE, PositionRole.FURTHER, BEFORE_DIFFERENCE)


ROLES = tuple(PositionRole)


@dataclass(frozen=True, eq=False)
class AverageTrace(Result):
    """Indirect effects of several traces; `effects[kind]` is NaN where a prompt lacks a role.

    A role that several positions of a prompt share has their mean. `places` stand for the roles
    where prompts have no subject. What is measured is the answer's probability, or the metric
    under `provenance["metric"]` (`locate.states.patching`).
    """

    KIND = "average trace"

    effects: Mapping[TraceKind, Float[np.ndarray, "trace role layer"]]
    p_clean: Float[np.ndarray, " trace"]
    p_corrupted: Float[np.ndarray, " trace"]
    provenance: Mapping[str, Any]
    places: tuple[Place, ...] = ()

    @property
    def measure(self) -> str:
        """What effects are differences of."""
        return str(self.provenance.get("metric", "p"))

    @property
    def unit(self) -> str:
        """What one trace is of: a fact, or a pair of prompts without a subject."""
        return "pair" if self.places else unit_of(self.provenance)

    @property
    def groups(self) -> Int[np.ndarray, " trace"] | None:
        """The number of each trace's observation; None where each is its own."""
        return groups_of(self.provenance, len(self.p_clean))

    @property
    def kinds(self) -> tuple[TraceKind, ...]:
        """The kinds of state that were restored."""
        return tuple(self.effects)

    @property
    def roles(self) -> tuple[PositionRole | Place, ...]:
        """All roles, in the order of a prompt: the second axis of `effects`."""
        return self.places or ROLES

    @property
    def counts(self) -> Int[np.ndarray, " role"]:
        """How many traces have each role."""
        first = next(iter(self.effects.values()))
        return np.isfinite(first[:, :, 0]).sum(0)

    def mean(self, kind: TraceKind | str) -> Float[np.ndarray, "role layer"]:
        """Average indirect effect; NaN for a role that no prompt has."""
        return _mean(self._of(kind))

    def interval(
        self, kind: TraceKind | str, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> tuple[Float[np.ndarray, "role layer"], Float[np.ndarray, "role layer"]]:
        """Lower and upper end of the bootstrap interval of `mean`, over the traces with the role.

        Traces of one fact are drawn together. NaN for a role of too few to resample.
        """
        if not 0 < level < 1:
            raise OptionError(f"an interval's level lies between 0 and 1, not {level}")
        if resamples < 1:
            raise OptionError(f"an interval needs at least 1 resample, not {resamples}")
        effects, groups = self._of(kind), self.groups
        low, high = np.full((2, *effects.shape[1:]), np.nan)
        for role in np.flatnonzero(self.counts):
            there = np.isfinite(effects[:, role, 0])
            values = effects[there, role]
            together = None if groups is None else groups[there]
            drawn = bootstrap_means(values, resamples, level, seed, groups=together)
            _, low[role], high[role] = drawn
        return low, high

    def peak(self, kind: TraceKind | str, role: PositionRole | str) -> tuple[int, Interval] | None:
        """The layer whose mean effect is largest for a role; None where no prompt has the role."""
        names = [str(each) for each in self.roles]
        known = str(role) if self.places else str(PositionRole.of(role))
        if known not in names:
            raise OptionError(f"there is no place {known!r}; there are {', '.join(names)}")
        place = names.index(known)
        if not self.counts[place]:
            return None
        mean, (low, high) = self.mean(kind)[place], self.interval(kind)
        layer = int(mean.argmax())
        return layer, Interval(mean[layer], low[place, layer], high[place, layer])

    def rows(self) -> list[dict[str, Any]]:
        """One record a kind, role and layer, for tables; roles that no prompt has are left out.

        `low` and `high` are None where there is no interval.
        """
        records = []
        for kind in self.kinds:
            mean, (low, high) = self.mean(kind), self.interval(kind)
            for index, layer in np.ndindex(*mean.shape):
                if self.counts[index]:
                    limits = Interval(*(float(part[index, layer]) for part in (mean, low, high)))
                    value = limits.as_dict()
                    records.append(
                        {
                            "kind": str(kind),
                            "role": str(self.roles[index]),
                            "layer": layer,
                            "effect": value.pop("value"),
                            **value,
                            "traces": int(self.counts[index]),
                        }
                    )
        return records

    def summary(self) -> Summary:
        """The probabilities, and each kind's peak at the early and the late site."""
        facts = {
            **named(self.provenance, "model", "noise", "samples", "window"),
            f"{self.measure} clean": f"{self.p_clean.mean():.3f}",
            f"{self.measure} corrupted": f"{self.p_corrupted.mean():.3f}",
        }
        rows = []
        for kind in self.kinds:
            for role in filter(lambda role: role.is_site, self.roles):
                peak = self.peak(kind, role)
                if peak is not None:
                    rows.append((kind.label, str(role), str(peak[0]), str(peak[1])))
        n_traces = len(self.p_clean)
        return Summary(
            f"Average causal trace of {n_traces:,} prompt{'s' * (n_traces != 1)}",
            facts,
            "the layer where the mean effect is largest",
            ("state", "position", "layer", "effect"),
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """Heat maps by kind of state; options are those of `viz.screen.trace_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers, for a file; `metadata` holds the rest. What is absent is zero there."""
        kinds = {f"effects.{kind}": np.nan_to_num(self.effects[kind]) for kind in self.kinds}
        return {
            "p_clean": self.p_clean,
            "p_corrupted": self.p_corrupted,
            "present": np.isfinite(next(iter(self.effects.values()))[:, :, 0]),
            **kinds,
        }

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "kinds": [str(kind) for kind in self.kinds],
            "roles": [str(role) for role in self.roles],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> AverageTrace:
        """The inverse of `arrays` and `metadata`; OptionError where they are no such average."""
        try:
            kinds = tuple(TraceKind(kind) for kind in metadata["kinds"])
            present = numeric(arrays, "present", "b", 2)
            p_clean, p_corrupted = (numeric(arrays, n, "f", 1) for n in ("p_clean", "p_corrupted"))
            stored = {kind: numeric(arrays, f"effects.{kind}", "f", 3) for kind in kinds}
            roles, provenance = texts(metadata["roles"]), dict(metadata["provenance"])
        except (KeyError, ValueError, TypeError) as error:
            raise OptionError(f"these arrays are not an average of traces: {error}") from None
        count, n_layers = len(p_clean), next(iter(stored.values())).shape[-1] if stored else 0
        shapes = [values.shape for values in stored.values()]
        own = roles != tuple(map(str, ROLES))
        if (
            (own and "metric" not in provenance)
            or len(set(roles)) < len(roles)
            or not shapes
            or not count
            or set(shapes) != {(count, len(roles), n_layers)}
            or present.shape != (count, len(roles))
            or p_corrupted.shape != (count,)
        ):
            raise OptionError(
                "these arrays are not an average of traces: their shapes or roles do not fit"
            )
        groups_of(provenance, count)
        absent = ~present.astype(bool)[:, :, None]
        effects = {kind: np.where(absent, np.nan, values) for kind, values in stored.items()}
        places = tuple(map(Place, roles)) if own else ()
        return cls(effects, p_clean, p_corrupted, provenance, places)

    def _of(self, kind: TraceKind | str) -> Float[np.ndarray, "trace role layer"]:
        kind = TraceKind.of(kind)
        if kind not in self.effects:
            raise OptionError(f"kind {kind!s} was not traced, only {', '.join(self.kinds)}")
        return self.effects[kind]


def _mean(effects: Float[np.ndarray, "trace role layer"]) -> Float[np.ndarray, "role layer"]:
    """Mean over the traces that have the role."""
    there = np.isfinite(effects)
    count = there.sum(0)
    total = np.where(there, effects, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
