"""What is known of one head's role: its numbers over the pairs, its label and the label's check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from circuits.base.display import token_name
from circuits.base.intervals import Interval
from locate.heads.by_example import ByExample, Example
from locate.heads.head_check import EFFECTS, HeadCheck, Role
from locate.heads.readings import Region
from locate.heads.role_criteria import Evidence


@dataclass(frozen=True)
class HeadRole:
    """One head's numbers, averaged over pairs, its label and, for labelled heads, the check.

    `attention` and `weighted` are shares by region, plain and value-weighted; `answer_gain` and
    `range_gain` the head's whole output, `mover` and `relation` the parts the label rests on.
    `by_example` is None where it was not asked for, and in older files; `written` are the tokens
    that it raises most on average over the pairs, which says little where these ask of unlike
    subjects.
    """

    name: str
    layer: int
    head: int
    role: Role
    mover: Evidence
    relation: Evidence
    attention: Mapping[Region, float]
    weighted: Mapping[Region, float]
    answer_gain: Interval
    range_gain: Interval
    written: tuple[str, ...]
    check: HeadCheck | None = None
    by_example: ByExample | None = None

    @property
    def score(self) -> float:
        """How much of all heads' work in its role this head does, 0 to 1.

        The share of the part that makes the role; of a mixture head the smaller of both, of a head
        without a role the larger.
        """
        shares = max(self.mover.share, 0.0), max(self.relation.share, 0.0)
        match self.role:
            case Role.MOVER:
                return shares[0]
            case Role.RELATION:
                return shares[1]
            case Role.MIXTURE:
                return min(shares)
        return max(shares)

    @property
    def writes(self) -> str:
        """What it writes in few words: the counts by example, else the tokens of the mean."""
        if self.by_example is not None:
            return self.by_example.counts
        return " ".join(map(token_name, self.written))

    def as_row(self) -> dict[str, Any]:
        """A flat record for a table; the check's columns are None where there was none."""
        check, told = self.check, self.by_example
        effects = {} if check is None else check.effects
        return {
            "head": self.name,
            "role": str(self.role),
            "score": self.score,
            **{f"attention_{region}": share for region, share in self.weighted.items()},
            **{f"plain_attention_{region}": share for region, share in self.attention.items()},
            "answer_gain": self.answer_gain.value,
            "answer_gain_from_subject": self.mover.gain.value,
            "range_gain": self.range_gain.value,
            "range_gain_from_relation": self.relation.gain.value,
            "writes": self.writes,
            "answers_in_best": None if told is None else told.answers,
            "foils_in_best": None if told is None else told.foils,
            "examples": None if told is None else [str(each) for each in told.examples],
            "written": list(self.written),
            **{str(name): effects[name].value if effects else None for name in EFFECTS},
            "verdict": None if check is None else str(check.verdict),
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with every interval."""
        return as_json({**vars(self), "score": self.score})


def as_json(value: Any) -> Any:
    """A head's numbers, or a report's, as plain JSON values."""
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, Evidence | HeadCheck | ByExample | Example):
        return as_json(vars(value))
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
