"""What a look into a model found, ready to be printed, sent as JSON and stored: for both doors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from circuits.base.origin import OBSERVED, SUMMARY, unit_of, write_all
from circuits.base.stamps import stamped
from circuits.base.writing import save_json
from locate.examples import Examples
from locate.report import markdown_table

R = TypeVar("R")
MOST_ROWS = 10
"""Rows of a table that are printed."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading; `rest` says how many more there are, and where."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    rest: str = ""

    def first(self, where: str, most: int = MOST_ROWS) -> Table:
        """The first rows, if there are more than so many; `where` names what holds all."""
        left = len(self.rows) - most
        if left <= 0:
            return self
        return replace(self, rows=self.rows[:most], rest=f"{left:,} more in {where}")


@dataclass(frozen=True)
class Look:
    """One finding: `summary` for programs, `lines` and `tables` for readers, `files` to write.

    `says` is what was found, in one sentence, and comes first; `schema` names the form of `record`.
    What the summary has under `warnings` is shown before it.
    """

    schema: str
    says: str
    summary: Mapping[str, Any]
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    files: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """The summary as JSON has it: with its schema and the sentence."""
        return stamped(self.schema, self.summary, self.says)

    def write(self, folder: Path | None, owned: Iterable[str] = ()) -> list[Path]:
        """The files and `summary.json`, where a folder is given; `owned` as in `write_all`."""
        if folder is None:
            return []
        summary = {SUMMARY: lambda path: save_json(self.record, path)}
        return write_all(folder, {**self.files, **summary}, owned)


def telling(ranks: np.ndarray, most: int = MOST_ROWS) -> list[int]:
    """States to print of [state ...] ranks: the first, the last, and where ranks change most.

    Change is in orders of magnitude, so that from 1 to 10 counts as much as from 100 to 1,000.
    """
    logs = np.log10(ranks.reshape(len(ranks), -1) + 1.0)
    steps = np.abs(np.diff(logs, axis=0)).max(1)
    largest = np.argsort(-steps, kind="stable")[: max(0, most - 2)] + 1
    return sorted({0, len(ranks) - 1, *largest.tolist()})


def about(found: R, examples: Examples) -> R:
    """The result saying what was asked, how much of that the model knows, and what to beware of."""
    told = {"relation": examples.name, "counts": examples.counts, "warnings": [*examples.notes]}
    return replace(found, provenance={**found.provenance, **told})  # type: ignore[attr-defined, type-var, no-any-return]


def warnings_of(provenance: Mapping[str, Any]) -> list[str]:
    """What to know before believing a result, as `about` or a verb has noted it."""
    return list(provenance.get("warnings", ()))


def describe(provenance: Mapping[str, Any], n_facts: int) -> tuple[str, ...]:
    """A line on how many facts are looked at, and how many are not known to the model."""
    counts = provenance.get("counts")
    if counts is None:
        return ()
    total = counts.get("facts", counts.get("lines"))
    known = f"the model knows {counts['known']} of {total}"
    if counts["known"] is None:
        known = f"not asked which of {total} the model knows"
    many = f"{n_facts} {unit_of(provenance)}s"
    if OBSERVED in provenance:
        many += " of {n} {drawn}, over which intervals are,".format(**provenance[OBSERVED])
    return (f"{provenance['relation']}: {many} looked at; {known}",)


def page(
    title: str, says: str, lines: Sequence[str], tables: Sequence[Table], legend: str = ""
) -> str:
    """What was found, then lines and tables, as Markdown."""
    parts = [f"# {title}", "", says, "", *(f"- {line}" for line in lines)]
    for table in tables:
        parts += ["", *([f"## {table.title}", ""] if table.title else [])]
        parts += markdown_table(table.header, table.rows)
        parts += ["", f"{table.rest}."] if table.rest else []
    return "\n".join([*parts, *(["", legend] if legend else [])]) + "\n"
