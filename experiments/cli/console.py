"""What a command says and where: results on stdout, everything else on stderr.

With `--json` stdout holds one JSON object and nothing else. Progress is a bar on a terminal and
one line a stage elsewhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from locate.looks.look import Look

Progress = Any


class Console:
    """One command's voice."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._stdout: IO[str] = sys.stdout
        self._stderr: IO[str] = sys.stderr

    @contextmanager
    def working(self) -> Iterator[Console]:
        """Within the block, whatever a library prints goes to stderr."""
        with redirect_stdout(self._stderr):
            yield self

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """A stage of the work; yields what to call with (done, in all)."""
        if self._stderr.isatty():
            with _bar(title) as report:
                yield report
            return
        start, last = time.perf_counter(), [0]

        def progress(done: int, total: int) -> None:
            last[0] = total

        yield progress
        seconds = time.perf_counter() - start
        count = f" ({last[0]})" if last[0] else ""
        print(f"{title}{count}: {seconds:.1f} s", file=self._stderr, flush=True)

    def say(self, text: str = "") -> None:
        """A line for the reader; not part of `--json`."""
        if not self.as_json:
            print("\n".join(visible(line) for line in text.split("\n")), file=self._stdout)

    def note(self, text: str) -> None:
        """A remark that is no result."""
        print(f"kc: {visible(text)}", file=self._stderr, flush=True)

    def warn(self, *texts: str) -> None:
        """What the reader should know before believing the result."""
        for text in texts:
            self.note(f"warning: {text}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Aligned columns."""
        if self.as_json:
            return
        cells = [[visible(cell) for cell in row] for row in (header, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for index, row in enumerate(cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.say(line.rstrip())
            if index == 0:
                self.say("  ".join("-" * width for width in widths))

    def files(self, paths: Sequence[Path]) -> None:
        """The last lines of a command that wrote something."""
        self.say()
        for path in paths:
            self.say(str(path))

    def show(self, look: Look, paths: Sequence[Path] = ()) -> None:
        """Lines and tables with the paths written below, or with `--json` one object."""
        for line in look.lines:
            self.say(line)
        for table in look.tables:
            if table.title:
                self.say(f"\n{table.title}")
            if table.rows:
                self.table(table.header, table.rows)
        if paths:
            self.files(paths)
        self.result({**look.summary, "files": [str(path) for path in paths]})

    def event(self, value: Mapping[str, Any]) -> None:
        """One line of JSON, now: of commands that tell what happens while they run."""
        from circuits.base.writing import to_json

        print(to_json(dict(value)), file=self._stdout, flush=True)

    def result(self, value: Mapping[str, Any]) -> None:
        """The JSON object of `--json`."""
        if not self.as_json:
            return
        from circuits.base.writing import to_json

        text = to_json(dict(value), indent=2)
        try:
            text.encode(getattr(self._stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:  # a terminal of few letters: JSON can do without them
            text = json.dumps(json.loads(text), indent=2)
        print(text, file=self._stdout)


def percent(share: float | None) -> str:
    """A share as per cent; nothing where there is none."""
    return "" if share is None else f"{100 * share:.1f} %"


def visible(text: str) -> str:
    """Text on one line: control characters, which could move a terminal's cursor, are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """A progress bar on stderr that is gone when the stage ends."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
