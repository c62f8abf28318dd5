"""What a command says and where: results on stdout, everything else on stderr.

With `--json` stdout holds one JSON object and nothing else, also of an error. Progress is a bar on
a terminal; elsewhere it is one line a stage with the time, and some in between of a long stage.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from circuits.base.progress import lasting

if TYPE_CHECKING:
    from locate.looks.look import Look

Progress = Any
UNSAID, DETAIL, NOTE, WARNING, ERROR = 0, 10, 20, 30, 40
"""How much a line matters, as in `logging`; what is UNSAID is for the log alone."""
EVERY = 30.0
"""Seconds between two lines of progress of one stage."""


@dataclass
class Voice:
    """How loud the program is; one value a process, set by the options that go in any place.

    With `quiet` only warnings, errors and results are told, with `verbose` also when a stage begins
    and what our modules log. `log` gets all of that in any case, each line with its time.
    """

    quiet: bool = False
    verbose: bool = False
    log: IO[str] | None = None
    as_json: bool = False
    answered: bool = False
    """Whether the JSON object of `--json` was printed."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """What the options of the command that runs are called on the command line."""

    def set(self, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
        """How loud to be from now on; nothing is answered yet, and no log is kept."""
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.log, self.answered, self.flags = None, False, {}

    def tell(self, text: str, level: int = NOTE) -> None:
        """A line on stderr, as far as it is wanted, and in the log."""
        line = visible(text)
        if self.log is not None:
            print(f"{_now()} {line}", file=self.log, flush=True)
        if level >= (DETAIL if self.verbose else WARNING if self.quiet else NOTE):
            stamp = "" if sys.stderr.isatty() or level == ERROR else f"{_now()} "
            print(f"{stamp}{line}", file=sys.stderr, flush=True)


VOICE = Voice()
_OPTION = re.compile(r"`(\w+)(?:='?([\w-]+)'?)?`")


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """The text with the options that it names in backquotes as the flags that they are.

    `steps` is --steps, `shots=5` is --shots 5, and `bos=False` is --no-bos.
    """

    def spelled(found: re.Match[str]) -> str:
        flag, value = flags.get(found[1]), found[2]
        if flag is None:
            return found[0]
        if value in ("True", "False"):
            return flag if value == "True" else flag.replace("--", "--no-", 1)
        return flag if value is None else f"{flag} {value}"

    return _OPTION.sub(spelled, text)


class Console:
    """One command's voice."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._stdout: IO[str] = sys.stdout
        self._stderr: IO[str] = sys.stderr
        self._is_apart = True

    @contextmanager
    def working(self) -> Iterator[Console]:
        """Within the block, whatever a library prints goes to stderr."""
        with redirect_stdout(self._stderr):
            yield self

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """A stage of the work; yields what to call with (done, in all)."""
        VOICE.tell(f"{title} ...", DETAIL)
        start = time.perf_counter()
        if self._stderr.isatty() and not VOICE.quiet:
            with _bar(title) as report:
                yield report
            VOICE.tell(f"{title}: {time.perf_counter() - start:.1f} s", DETAIL)
            return
        last, told = [0], [start]

        def progress(done: int, total: int) -> None:
            last[0], now = total, time.perf_counter()
            if now - told[0] >= EVERY and 0 < done < total:
                told[0] = now
                left = (now - start) / done * (total - done)
                VOICE.tell(f"{title}: {done:,} of {total:,}, about {lasting(left)} left")

        yield progress
        count = f" ({last[0]:,})" if last[0] else ""
        VOICE.tell(f"{title}{count}: {time.perf_counter() - start:.1f} s")

    def say(self, text: str = "") -> None:
        """A line for the reader; not part of `--json`."""
        if not self.as_json:
            print("\n".join(visible(line) for line in text.split("\n")), file=self._stdout)
            self._is_apart = not text or text.endswith("\n")

    def apart(self) -> None:
        """A blank line, where there is none yet."""
        if not self._is_apart:
            self.say()

    def found(self, sentence: str, title: str = "") -> None:
        """What was found, in one sentence: the first that a command says."""
        VOICE.tell(sentence, UNSAID)
        self.say(f"\n{title}\n{sentence}" if title else f"{sentence}\n")

    def note(self, text: str) -> None:
        """A remark that is no result."""
        VOICE.tell(f"kc: {in_flags(text, VOICE.flags)}")

    def warn(self, *texts: str) -> None:
        """What the reader should know before believing the result."""
        for text in texts:
            VOICE.tell(f"kc: warning: {in_flags(text, VOICE.flags)}", WARNING)

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
        self.apart()
        for path in paths:
            self.say(str(path))

    def show(self, look: Look, paths: Sequence[Path] = ()) -> None:
        """Lines and tables with the paths written below, or with `--json` one object.

        What to know before believing them is warned of first.
        """
        self.warn(*look.summary.get("warnings", ()))
        self.found(look.says)
        for line in look.lines:
            self.say(in_flags(line, VOICE.flags))
        for table in look.tables:
            if table.title:
                self.apart()
                self.say(table.title)
            if table.rows:
                self.table(table.header, table.rows)
                if table.rest:
                    self.say(f"... {table.rest}")
        if paths:
            self.files(paths)
        self.result({**look.record, "files": [str(path) for path in paths]})

    def event(self, value: Mapping[str, Any]) -> None:
        """One line of JSON, now: of commands that tell what happens while they run."""
        from circuits.base.stamps import stamped
        from circuits.base.writing import to_json

        VOICE.answered = True
        print(to_json(stamped("sweep-event", value)), file=self._stdout, flush=True)

    def result(self, value: Mapping[str, Any]) -> None:
        """The JSON object of `--json`, which names its schema (`circuits.base.stamps`)."""
        if not self.as_json:
            return
        VOICE.answered = True
        from circuits.base.writing import to_json

        text = to_json(dict(value), indent=2)
        try:
            text.encode(getattr(self._stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:  # a terminal of few letters: JSON can do without them
            text = json.dumps(json.loads(text), indent=2)
        print(text, file=self._stdout)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


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
