"""One head before and after an edit, as a value; `locate.heads.head_changes` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuits.base.results import texts
from locate.heads.readings import REGIONS, Region


@dataclass(frozen=True)
class HeadChange:
    """One head before and after; `moved` is the score mass moved on the edges that leave it.

    `attention` holds shares of value-weighted attention at the last token by region, `written` the
    tokens raised most, `old` and `new` logits added to the two objects (see `HeadViews`): each a
    pair of before and after. `changed` counts the leaving edges called changed.
    """

    name: str
    role: str
    moved: float
    changed: int
    old: tuple[float, float]
    new: tuple[float, float]
    attention: tuple[Mapping[Region, float], Mapping[Region, float]]
    written: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def switched(self) -> bool:
        """Whether the head spoke for the old object before and speaks for the new one now."""
        return self.old[0] > self.new[0] and self.new[1] > self.old[1]

    @property
    def swing(self) -> float:
        """By how many logits the head's own words moved from the old towards the new object."""
        return (self.new[1] - self.old[1]) - (self.new[0] - self.old[0])

    def as_row(self) -> dict[str, Any]:
        """A flat record for a table."""
        row: dict[str, Any] = {
            "head": self.name,
            "role": self.role,
            "moved": self.moved,
            "changed_edges": self.changed,
            "swing": self.swing,
            "switched": self.switched,
        }
        for place, side in enumerate(("before", "after")):
            row |= {f"old_{side}": self.old[place], f"new_{side}": self.new[place]}
            row |= {f"attention_{name}_{side}": x for name, x in self.attention[place].items()}
            row[f"written_{side}"] = list(self.written[place])
        return row

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        attention = [{str(name): share for name, share in side.items()} for side in self.attention]
        return {**vars(self), "attention": attention}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> HeadChange:
        """The inverse of `record`; OptionError where a list of words holds anything else."""
        first, second = (
            {name: float(side.get(str(name), 0.0)) for name in REGIONS}
            for side in record["attention"]
        )
        before, after = map(texts, record["written"])
        old, new = ([float(each) for each in record[name]] for name in ("old", "new"))
        return cls(
            name=str(record["name"]),
            role=str(record["role"]),
            moved=float(record["moved"]),
            changed=int(record["changed"]),
            old=(old[0], old[1]),
            new=(new[0], new[1]),
            attention=(first, second),
            written=(before, after),
        )
