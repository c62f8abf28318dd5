"""Tables of a report: plain values and intervals, as Parquet, Markdown and text."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.intervals import Interval
from circuits.base.writing import atomic_write

if TYPE_CHECKING:
    import pandas

UNKNOWN = "–"
"""What a cell without a value shows."""


@dataclass(frozen=True)
class Table:
    """Rows under named columns; a cell is text, a number, an `Interval`, a truth value or None.

    `name` is the file's, `title` what readers see. Columns in `percent` hold shares (0 to 1) and
    are shown in percent; `digits` gives decimals by column, otherwise `default_digits`. Stored
    values are never rounded. `long` tables are folded away on the page; rows whose first cell is in
    `totals` are set off. `stored_only` tables are files and stand on no page.
    """

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""
    percent: Collection[str] = ()
    digits: Mapping[str, int] = field(default_factory=dict)
    default_digits: int = 3
    long: bool = False
    totals: tuple[str, ...] = ()
    stored_only: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.name!r} has {len(self.columns)} columns and a row of {len(row)}"
                )

    @classmethod
    def of(
        cls,
        name: str,
        items: Mapping[Any, Any] | Iterable[Any],
        columns: Mapping[str, Callable[..., Any]],
        **options: Any,
    ) -> Table:
        """One row an item, each column with what it reads: from a mapping, its key and value."""
        given = items.items() if isinstance(items, Mapping) else [(item,) for item in items]
        rows = [[read(*each) for read in columns.values()] for each in given]
        return cls(name, tuple(columns), rows, **options)

    def texts(self) -> list[list[str]]:
        """Every cell as readers see it."""
        return [
            [self.shown(name, cell) for name, cell in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def shown(self, column: str, cell: Any) -> str:
        """One cell as text."""
        in_percent = column in self.percent
        digits = self.digits.get(column, 1 if in_percent else self.default_digits)
        return shown(cell, digits, 100.0 if in_percent else 1.0)

    def is_numeric(self, column: str) -> bool:
        """Whether the column holds numbers, which are set flush right."""
        place = self.columns.index(column)
        cells = [row[place] for row in self.rows if row[place] is not None]
        return bool(cells) and all(isinstance(cell, int | float | Interval) for cell in cells)

    def heading(self, column: str) -> str:
        """The column's heading, with `%` where it is in percent."""
        return f"{column}, %" if column in self.percent else column

    def markdown(self, mark: Callable[[str], str] = str) -> str:
        """The table in Markdown, with its title and note; `mark` links terms in its headings."""
        cells = [[_escaped(cell) for cell in row] for row in self.texts()]
        head = [mark(_escaped(self.heading(name))) for name in self.columns]
        rule = ["---:" if self.is_numeric(name) else "---" for name in self.columns]
        lines = [f"| {' | '.join(row)} |" for row in (head, rule, *cells)]
        above = [f"**{self.title}**", ""] if self.title else []
        below = ["", self.note] if self.note else []
        return "\n".join([*above, *lines, *below]) + "\n"

    def columns_of_values(self) -> dict[str, list[Any]]:
        """Values by column for a file; an interval becomes the columns x, x_low and x_high."""
        found: dict[str, list[Any]] = {}
        for place, name in enumerate(self.columns):
            cells = [row[place] for row in self.rows]
            if any(isinstance(cell, Interval) for cell in cells):
                for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                    found[name + suffix] = [
                        _stored(getattr(cell, part, cell if part == "value" else None))
                        for cell in cells
                    ]
            else:
                found[name] = [_stored(cell) for cell in cells]
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """The values, unrounded, as a table of pandas."""
        import pandas

        return pandas.DataFrame(self.columns_of_values())

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def save_parquet(self, path: Path) -> None:
        """Write the values, unrounded."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {}
        for name, values in self.columns_of_values().items():
            kinds = {type(value) for value in values if value is not None}
            if len(kinds) > 1:  # a column of mixed cells
                numeric = kinds <= {int, float}
                convert = float if numeric else str
                values = [None if value is None else convert(value) for value in values]
            columns[name] = pa.array(values)
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        atomic_write(path, buffer.getvalue())


def shown(value: Any, digits: int = 3, scale: float = 1.0) -> str:
    """A value as text: numbers rounded, intervals as `value [low, high]`, no value as a dash."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Interval):
        centre = shown(value.value, digits, scale)
        if not (math.isfinite(value.low) and math.isfinite(value.high)):
            return centre
        return f"{centre} [{shown(value.low, digits, scale)}, {shown(value.high, digits, scale)}]"
    if isinstance(value, float):
        if not math.isfinite(value):
            return UNKNOWN
        text = f"{value * scale:,.{digits}f}"
        is_zero = not text.strip("-0.,")  # no minus before a zero
        return (text.lstrip("-") if is_zero else text).replace("-", "−")
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    return str(value)


def _stored(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
