"""What a head may be called, and what silencing it says; `locate.heads.role_checks` asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from circuits.base.intervals import Interval


class Role(StrEnum):
    """What a head does at the last token; NONE where the criterion finds neither."""

    MOVER = "mover"
    RELATION = "relation"
    MIXTURE = "mixture"
    NONE = "none"


class Verdict(StrEnum):
    """What ablation says of a label; see `judge`."""

    CONFIRMED = "confirmed"
    NOT_CONFIRMED = "not confirmed"
    CONTRARY = "contrary"


class Effect(StrEnum):
    """What a run without a head says more or less of; each is (ablated run) - (clean run).

    ANSWER_GAP: logit of the answer minus mean logit of the relation's other objects.
    RANGE_GAP: mean logit of the other objects minus mean logit of all tokens off the relation.
    P_ANSWER, P_OTHERS, P_OFF: probability of the answer, of the other objects together, of all
    else together; the three changes sum to 0.
    """

    ANSWER_GAP = "answer_gap"
    RANGE_GAP = "range_gap"
    P_ANSWER = "p_answer"
    P_OTHERS = "p_others"
    P_OFF = "p_off"


EFFECTS = tuple(Effect)


@dataclass(frozen=True)
class HeadCheck:
    """What silencing the head at the last token changes, and what that says of its label.

    `effects` are (ablated) - (clean), `excess` the same minus the baseline's mean, pair by pair.
    """

    effects: Mapping[Effect, Interval]
    excess: Mapping[Effect, Interval] | None
    verdict: Verdict
