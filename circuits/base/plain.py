"""Results as plain JSON values, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from circuits.base.choices import Open
from circuits.base.intervals import UNDEFINED, Interval


def plain(value: Any) -> Any:
    """Numbers, text, lists and dictionaries only; NaN and infinity become null."""
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum | Open):
        return value.value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def interval(stored: Mapping[str, float | None] | None) -> Interval:
    """An interval from its JSON; UNDEFINED for null."""
    if stored is None:
        return UNDEFINED
    return Interval.from_dict(stored)


def number(stored: float | None) -> float:
    """A number from its JSON: null is NaN."""
    return math.nan if stored is None else float(stored)
