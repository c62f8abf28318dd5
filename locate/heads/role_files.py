"""A role report in a `*.kc.safetensors` file: the labels with their evidence, and each pair's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.intervals import Interval
from circuits.files.store import load_arrays, save_arrays
from locate.heads.attention import REGIONS, HeadReadings, Region
from locate.heads.role_checks import Effect, HeadCheck, Role, Verdict
from locate.heads.role_criteria import Evidence, RoleCriteria
from locate.heads.roles import HeadRole, RoleReport

KIND = "roles"
_WRITTEN = "written"


def save_roles(
    report: RoleReport, path: str | Path, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a report; `extra` is kept beside it in the file's metadata, for readers of files."""
    written = np.array(report.readings.written, dtype=np.int64)
    arrays = {**report.arrays(), _WRITTEN: written}
    save_arrays(path, KIND, arrays, {**(extra or {}), **report.as_dict()})


def load_roles(path: str | Path) -> RoleReport:
    """Read what `save_roles` wrote; FileFormatError names the file and the reason."""
    arrays, metadata = load_arrays(path, KIND)
    try:
        written = arrays.pop(_WRITTEN).tolist()
        readings = HeadReadings(
            **arrays, written=tuple(tuple(map(tuple, layer)) for layer in written)
        )
        baseline = metadata["baseline"]
        return RoleReport(
            heads=tuple(map(_head, metadata["heads"])),
            criteria=RoleCriteria(**metadata["criteria"]),
            readings=readings,
            baseline=None if baseline is None else _effects(baseline),
            controls=tuple(metadata["controls"]),
            provenance=dict(metadata["provenance"]),
        )
    except (OptionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(path, f"holds no roles: {error}") from None


def _head(record: Mapping[str, Any]) -> HeadRole:
    check = record["check"]
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
    )


def _evidence(record: Mapping[str, Any]) -> Evidence:
    gain = Interval.from_dict(record["gain"])
    return Evidence(float(record["attention"]), gain, float(record["share"]))


def _check(record: Mapping[str, Any]) -> HeadCheck:
    excess = record["excess"]
    return HeadCheck(
        effects=_effects(record["effects"]),
        excess=None if excess is None else _effects(excess),
        verdict=Verdict(record["verdict"]),
    )


def _effects(record: Mapping[str, Any]) -> dict[Effect, Interval]:
    return {Effect(name): Interval.from_dict(value) for name, value in record.items()}


def _by_region(record: Mapping[str, Any]) -> dict[Region, float]:
    return {region: float(record[str(region)]) for region in REGIONS}
