"""A sweep's units as a matrix of two settings: a number's mean, spread and count in each cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

from circuits.files.sweep import Unit

ABSENT = "–"
"""The value of a setting that a unit does not have."""
MOST_LINES = 80
"""Rows and columns that a matrix draws."""
AS_ROWS = ("relation", "facts", "subject", "requests", "circuit")
AS_COLUMNS = ("method", "verb", "model")
LAST = ("seed", "dtype")
"""Settings that only stand as rows or columns where nothing else varies."""
FIRST_NUMBERS = ("faithfulness", "success.efficacy", "efficacy")
Cell = tuple[str, str]


@dataclass(frozen=True)
class Matrix:
    """Units by the values of two settings; cells hold what has the number, `bad` counts others."""

    rows: Sequence[str]
    columns: Sequence[str]
    row_name: str
    column_name: str
    number: str
    values: Mapping[Cell, Sequence[float]]
    bad: Mapping[Cell, int]
    left: tuple[int, int]
    """Rows and columns beyond those that are drawn."""

    @cached_property
    def means(self) -> dict[Cell, float]:
        """The mean of each cell that has a number."""
        return {cell: sum(each) / len(each) for cell, each in self.values.items() if each}

    def spread(self, cell: Cell) -> tuple[float, float, float | None]:
        """Smallest and largest, and the standard deviation (n - 1 below; None of one number)."""
        each = self.values[cell]
        mean = self.means[cell]
        if len(each) < 2:
            return min(each), max(each), None
        deviation = sqrt(sum((x - mean) ** 2 for x in each) / (len(each) - 1))
        return min(each), max(each), deviation


def value_of(unit: Unit, setting: str) -> str:
    """A unit's value of a setting, as it is chosen by."""
    return unit.settings.get(setting, ABSENT) or "∅"


def settings_in(units: Iterable[Unit]) -> dict[str, list[str]]:
    """The values of every setting, in order: numbers by size, words by letters."""
    units = [unit for unit in units if unit.settings]
    names = dict.fromkeys(name for unit in units for name in unit.settings)
    return {name: _sorted({value_of(unit, name) for unit in units}) for name in names}


def varying(values: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Settings that have more than one value, the natural ones first."""
    order = {name: place for place, name in enumerate(("model", "verb", *AS_ROWS, "method"))}
    names = sorted(values, key=lambda name: (name in LAST, order.get(name, len(order)), name))
    return {name: values[name] for name in names if len(values[name]) > 1}


def axes(values: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The two settings that rows and columns are most naturally: what is known, and how."""
    few = {name: each for name, each in varying(values).items() if len(each) <= MOST_LINES}
    rest = [name for name in few if name not in (*AS_ROWS, *AS_COLUMNS)]
    row = next((name for name in (*AS_ROWS, "model", *rest) if name in few), "model")
    after = (*AS_COLUMNS, *rest, *AS_ROWS)
    column = next((name for name in after if name in few and name != row), "")
    return row, column or ("verb" if row != "verb" else "model")


def numbers_in(units: Iterable[Unit]) -> list[str]:
    """Names of all numbers, those first that say how good a result is, then plain ones."""
    names = dict.fromkeys(name for unit in units for name in unit.numbers)
    first = [name for name in FIRST_NUMBERS if name in names]
    rest = sorted((n for n in names if n not in first), key=lambda n: ("interval" in n, "." in n))
    return [*first, *rest]


def chosen(units: Iterable[Unit], where: Mapping[str, Sequence[str]]) -> list[Unit]:
    """The units that have one of the wanted values of every setting that is named."""
    wanted = [(name, frozenset(values)) for name, values in where.items() if values]
    return [
        unit
        for unit in units
        if unit.settings and all(value_of(unit, name) in values for name, values in wanted)
    ]


def matrix_of(units: Sequence[Unit], row: str, column: str, number: str) -> Matrix:
    """The matrix of units; a failed one, or one without the number, counts under `bad`."""
    values: dict[Cell, list[float]] = {}
    bad: dict[Cell, int] = {}
    for unit in units:
        cell = value_of(unit, row), value_of(unit, column)
        held = values.setdefault(cell, [])
        if number in unit.numbers:
            held.append(unit.numbers[number])
        else:
            bad[cell] = bad.get(cell, 0) + 1
    rows, columns = (_sorted({cell[side] for cell in values}) for side in (0, 1))
    left = max(0, len(rows) - MOST_LINES), max(0, len(columns) - MOST_LINES)
    shown = rows[:MOST_LINES], columns[:MOST_LINES]
    return Matrix(*shown, row, column, number, values, bad, left)


def in_order(value: str) -> tuple[int, float, str]:
    """Where a value stands among others: numbers by size, then words, then what is absent."""
    try:
        return 0, float(value), value
    except ValueError:
        return (2 if value == ABSENT else 1), 0.0, value


def _sorted(values: Iterable[str]) -> list[str]:
    return sorted(values, key=in_order)
