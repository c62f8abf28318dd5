"""What a look into a model found, ready to be printed, sent as JSON and stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits.base.origin import SUMMARY, write_all
from circuits.base.writing import save_json
from experiments.cli.console import Console
from locate.examples import Examples


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Look:
    """One finding: `summary` for programs, `lines` and `tables` for readers, `files` to write."""

    summary: Mapping[str, Any]
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    files: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)

    def write(self, folder: Path | None, owned: Iterable[str] = ()) -> list[Path]:
        """The files and `summary.json`, where a folder is given; `owned` as in `write_all`."""
        if folder is None:
            return []
        summary = {SUMMARY: lambda path: save_json(self.summary, path)}
        return write_all(folder, {**self.files, **summary}, owned)

    def show(self, console: Console, paths: Sequence[Path] = ()) -> None:
        """Lines and tables with the paths written below, or with `--json` one object."""
        for line in self.lines:
            console.say(line)
        for table in self.tables:
            if table.title:
                console.say(f"\n{table.title}")
            if table.rows:
                console.table(table.header, table.rows)
        if paths:
            console.files(paths)
        console.result({**self.summary, "files": [str(path) for path in paths]})


def describe(examples: Examples) -> str:
    """How many facts are looked at, and how many are not known to the model."""
    counts, n_facts = examples.counts, len(examples.pairs)
    total = counts.get("facts", counts.get("lines"))
    known = f"the model knows {counts['known']} of {total}"
    if counts["known"] is None:
        known = f"not asked which of {total} the model knows"
    return f"{examples.name}: {n_facts} facts looked at; {known}"
