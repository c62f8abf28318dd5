"""Amounts of memory, as people write them: 6GiB, 500MB."""

from __future__ import annotations

import math
import re
from typing import Any

from circuits.base.errors import OptionError

_UNITS = {"B": 1} | {
    f"{prefix}{kind}": base**power
    for kind, base in (("iB", 1024), ("B", 1000))
    for power, prefix in enumerate("KMGT", start=1)
}
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def bytes_of(name: str, value: Any) -> int:
    """Bytes of a number of them or of a text such as 6GiB; OptionError for anything else."""
    by_name = {unit.lower(): size for unit, size in _UNITS.items()}
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (found := _WRITTEN.fullmatch(value)):
        size = by_name.get((found[2] or "B").lower())
        number = None if size is None else math.ceil(float(found[1]) * size)
    if number is None or number < 1:
        raise OptionError(f"`{name}` takes an amount such as 6GiB or 500MB, not {value!r:.40}")
    return number


def shown(size: float, up: bool = False) -> str:
    """Bytes in the binary unit that suits them, such as 1.5GiB; `up` never shows less."""
    unit = next((unit for unit in ("TiB", "GiB", "MiB", "KiB") if size >= _UNITS[unit]), "B")
    number = size / _UNITS[unit] * 100
    return f"{(math.ceil(number) if up else round(number)) / 100:g}{unit}"
