"""How role reports are stored: from a file's arrays and records to heads with their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.results import numeric
from locate.heads.by_example import ByExample
from locate.heads.head_check import Effect, HeadCheck, Role, Verdict
from locate.heads.head_role import HeadRole
from locate.heads.readings import REGIONS, HeadReadings, Region
from locate.heads.role_criteria import Evidence


def read_readings(arrays: Mapping[str, np.ndarray]) -> HeadReadings:
    """The numbers of each pair."""
    written = numeric(arrays, "written", "i", 3).tolist()
    numbers = {name: each for name, each in arrays.items() if name != "written"}
    return HeadReadings(
        **{name: numeric(numbers, name, "f", 4) for name in numbers},
        written=tuple(tuple(map(tuple, layer)) for layer in written),
    )


def read_head(record: Mapping[str, Any]) -> HeadRole:
    """One head, from what `HeadRole.as_dict` gave."""
    check, told = record["check"], record.get("by_example")  # older files have no examples
    return HeadRole(
        name=str(record["name"]),
        layer=int(record["layer"]),
        head=int(record["head"]),
        role=Role(record["role"]),
        mover=_evidence(record["mover"]),
        relation=_evidence(record["relation"]),
        attention=_by_region(record["attention"]),
        weighted=_by_region(record["weighted"]),
        answer_gain=Interval.from_dict(record["answer_gain"]),
        range_gain=Interval.from_dict(record["range_gain"]),
        written=tuple(map(str, record["written"])),
        check=None if check is None else _check(check),
        by_example=None if told is None else ByExample.from_dict(told),
    )


def _evidence(record: Mapping[str, Any]) -> Evidence:
    gain = Interval.from_dict(record["gain"])
    return Evidence(float(record["attention"]), gain, float(record["share"]))


def _check(record: Mapping[str, Any]) -> HeadCheck:
    excess = record["excess"]
    return HeadCheck(
        effects=read_effects(record["effects"]),
        excess=None if excess is None else read_effects(excess),
        verdict=Verdict(record["verdict"]),
    )


def read_effects(record: Mapping[str, Any]) -> dict[Effect, Interval]:
    """Effects of silencing by their names."""
    return {Effect(name): Interval.from_dict(value) for name, value in record.items()}


def _by_region(record: Mapping[str, Any]) -> dict[Region, float]:
    return {region: float(record.get(str(region), 0.0)) for region in REGIONS}
