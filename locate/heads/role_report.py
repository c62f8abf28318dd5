"""What a role report is: the heads with their labels, the criterion, the numbers of each pair.

`locate.heads.roles` measures one, `locate.heads.role_files` reads one from what a file holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.display import Summary, named, plotted
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.base.results import Result, texts
from locate.heads.head_check import Effect, Role
from locate.heads.head_role import HeadRole, as_json
from locate.heads.readings import HeadReadings
from locate.heads.role_criteria import RoleCriteria
from locate.heads.role_files import read_effects, read_head, read_readings

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 8
"""Heads in a summary."""


@dataclass(frozen=True, eq=False)
class RoleReport(Result):
    """Roles of a model's (or circuit's) heads for one relation, most important first.

    `baseline` is the mean effect of silencing one of `controls`, unlabelled heads drawn at random
    from the labelled heads' layers. `readings` keep the numbers of each pair for all heads.
    """

    KIND = "roles"

    heads: tuple[HeadRole, ...]
    criteria: RoleCriteria
    readings: HeadReadings
    baseline: Mapping[Effect, Interval] | None = None
    controls: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> HeadRole:
        for head in self.heads:
            if head.name == name:
                return head
        raise OptionError(f"the report holds no head {name!r}")

    @property
    def labelled(self) -> tuple[HeadRole, ...]:
        """The heads that have a role."""
        return tuple(head for head in self.heads if head.role != Role.NONE)

    @property
    def roles(self) -> dict[str, str]:
        """Label by name of the labelled heads, as `Circuit.roles` takes it."""
        return {head.name: str(head.role) for head in self.labelled}

    def rows(self) -> list[dict[str, Any]]:
        """One record a head, for a table."""
        return [head.as_row() for head in self.heads]

    def summary(self) -> Summary:
        """The labelled heads with their evidence; the strongest ones where no head has a role."""
        counts = [str(head.role) for head in self.labelled]
        facts = {
            **named(self.provenance, "model", "relation", "pairs", "facts"),
            "roles": ", ".join(f"{counts.count(role)} {role}" for role in dict.fromkeys(counts)),
        }
        rows = [
            (
                head.name,
                str(head.role),
                f"{head.score:.0%}",
                f"{head.mover.attention:.2f}",
                f"{head.relation.attention:.2f}",
                head.writes,
                "" if head.check is None else str(head.check.verdict),
            )
            for head in (self.labelled or self.heads)[:SHOWN]
        ]
        header = ("head", "role", "share", "on subject", "on relation", "writes", "ablation")
        return Summary(
            f"Roles of {len(self.heads):,} heads",
            {name: value for name, value in facts.items() if value},
            "share of all heads' work in the role; attention weighted by value" + self._notes(),
            header,
            rows,
        )

    def _notes(self) -> str:
        """What is counted by example and what the ablation was checked on, in words."""
        told = [head.by_example for head in self.heads if head.by_example is not None]
        held = f"; writes: pairs whose answer is among its {told[0].n_best} best" if told else ""
        on = self.provenance.get("checked_on")
        return held + (f"; ablation on {on}" if on and self.baseline is not None else "")

    def plot(self, **options: Any) -> go.Figure:
        """Heads by their parts as mover and relation head, as `viz.screen.roles_figure` draws."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers of each pair, for a file; `metadata` holds the rest."""
        written = np.array(self.readings.written, dtype=np.int64)
        return {**self.readings.arrays(), "written": written}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return self.as_dict()

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> RoleReport:
        """The inverse of `arrays` and `metadata`; an error where they make no report."""
        baseline = metadata["baseline"]
        return cls(
            heads=tuple(map(read_head, metadata["heads"])),
            criteria=RoleCriteria(**metadata["criteria"]),
            readings=read_readings(arrays),
            baseline=None if baseline is None else read_effects(baseline),
            controls=texts(metadata["controls"]),
            provenance=dict(metadata["provenance"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return as_json(
            {
                "heads": [head.as_dict() for head in self.heads],
                "criteria": asdict(self.criteria),
                "baseline": self.baseline,
                "controls": self.controls,
                "provenance": self.provenance,
            }
        )
