"""`kc`, the command line: options in, one line for every mistake, exit codes out.

With `--json` a mistake is one JSON object on stdout too. Exit codes: 0 done; 2 a mistake in options
or files; 3 no such model, or one that is not covered; 4 numbers or disk failed; 130 interrupted;
1 an error of this program (`--debug` shows where).
Commands import what they need when they run, so that `--help` needs no torch.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception
from typing import IO, Annotated

import typer

import viz
from circuits.base.errors import (
    KnowledgeCircuitsError,
    OptionError,
    OutOfMemoryError,
    StoreError,
    is_out_of_memory,
)
from circuits.base.stamps import stamped
from experiments.cli import (
    bench,
    benchmark,
    edit,
    facts,
    figures,
    files,
    find,
    glossary,
    inside,
    look,
    mib,
    run,
    serve,
    sweep,
)
from experiments.cli.console import DETAIL, ERROR, UNSAID, VOICE, visible
from experiments.cli.signature import command
from experiments.cli.streams import open_streams

DEBUG = "--debug"
PLUGIN, LOG = "--plugin", "--log"
QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")
PLUGINS = "KC_PLUGINS"
INTERRUPTED = 130
ROOMS = ("circuits", "locate", "viz", "experiments", "knowledge_circuits")

COMMANDS = (
    *(find.discover, find.evaluate, look.trace, look.roles, look.lens),
    *(inside.neurons, inside.carriers),
    *(edit.edit, edit.unlearn, edit.compare, run.run, benchmark.benchmark),
    *(sweep.sweep, figures.figures, serve.serve),
    *(files.show, files.export, files.push, files.schema, files.models, facts.facts),
    glossary.glossary,
)
"""As `kc --help` lists them."""
GROUPS = {
    "bench": ("Measure methods of this project where the truth is known.", bench.COMMANDS),
    "mib": ("MIB's circuit track: scores, submissions.", (mib.discover, mib.evaluate, mib.export)),
}
"""Commands under a name of their own, after the others: what they are about, and they."""


def make_app() -> typer.Typer:
    """The commands, with the choices that are known now."""
    app = typer.Typer(
        help="Find, measure and compare the circuits that recall facts in language models.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(options)
    for each in COMMANDS:
        app.command()(command(each))
    for name, (text, members) in GROUPS.items():
        group = typer.Typer(help=text, add_completion=False, rich_markup_mode=None)
        group.callback()(lambda: None)  # a group stays one, also of one command
        for member in members:
            group.command()(command(member))
        app.add_typer(group, name=name)
    return app


def _print_version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        typer.echo(f"knowledge-circuits {version('knowledge-circuits')}")
        raise typer.Exit
    return asked


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error; works in any place.")
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            PLUGIN,
            metavar="FILE.py",
            help="Run this file first: what it registers is a choice like any other; repeatable, "
            f"works in any place. {PLUGINS} names such files too.",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            LOG,
            metavar="FILE",
            help="Add what is done, with the time, to this file; works in any place.",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(*QUIET, help="Nothing on stderr but warnings and errors; in any place."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option(*VERBOSE, help="Tell more on stderr of what is done; in any place.")
    ] = False,
) -> None:
    """Find, measure and compare the circuits that recall facts in language models."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: runs a command and returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in given
    _quieten_libraries()
    viz.offer()
    with open_streams(), ExitStack() as opened:
        opened.callback(VOICE.set)
        VOICE.set(as_json="--json" in given)
        code = _run(given, debug, opened)
        VOICE.tell(f"exit code {code}", UNSAID)
        return code


def _run(given: Sequence[str], debug: bool, opened: ExitStack) -> int:
    """Run the command; errors as exit codes, or raised with `debug`."""
    try:
        words = _apart(given)
        VOICE.set(words.quiet, words.verbose, as_json=VOICE.as_json)
        if words.log is not None:
            VOICE.log = opened.enter_context(_log_file(Path(words.log)))
        VOICE.tell(f"kc {' '.join(given)}", UNSAID)
        opened.enter_context(_heard_modules())
        _load(words.plugins)
        arguments = words.rest or ["--help"]
        code = make_app()(args=arguments, prog_name="kc", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:
            return _fail("interrupted", INTERRUPTED, "KeyboardInterrupt")
        return code if isinstance(code, int) else 0
    except SystemExit as end:  # so Typer ends where a pipe broke, which is none of our streams
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return _report(end.__context__)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED, "KeyboardInterrupt")
    except Exception as error:
        if debug:
            raise
        if VOICE.log is not None:
            VOICE.tell("".join(format_exception(error)), UNSAID)
        return _report(error)


@dataclass
class _Words:
    """What a command line says: the command's own words, and the options that go in any place."""

    rest: list[str]
    plugins: list[str]
    log: str | None = None
    quiet: bool = False
    verbose: bool = False


def _apart(given: Sequence[str]) -> _Words:
    """The command's words without the options that go in any place, and these."""
    plugins = [name for name in os.environ.get(PLUGINS, "").split(os.pathsep) if name]
    found = _Words([], plugins)
    words = iter(given)
    for word in words:
        if "\0" in word or any("\ud800" <= char <= "\udfff" for char in word):
            raise OptionError(f"{word!r} is no text in UTF-8")
        name, sign, value = word.partition("=")
        if word == "--":
            found.rest += [word, *words]
        elif word in QUIET:
            found.quiet = True
        elif word in VERBOSE:
            found.verbose = True
        elif name in (PLUGIN, LOG):
            file = value if sign else next(words, "")
            if not file:
                raise OptionError(f"{name} needs a file")
            if name == PLUGIN:
                plugins.append(file)
            else:
                found.log = file
        elif word != DEBUG:
            found.rest.append(word)
    if found.quiet and found.verbose:
        raise OptionError(f"{QUIET[1]} and {VERBOSE[1]} do not go together")
    return found


def _log_file(path: Path) -> IO[str]:
    """The log, to be added to; StoreError where it cannot be written."""
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{LOG} {path} cannot be written: {error.strerror}") from None


@contextmanager
def _heard_modules() -> Iterator[None]:
    """Within the block what our modules log is told, remarks only to who wants more."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = record.levelno if record.levelno >= logging.WARNING else DETAIL
            word = "warning: " if level >= logging.WARNING else ""
            VOICE.tell(f"kc: {word}{record.getMessage()}", min(level, logging.WARNING))

    told, loggers = Told(), [logging.getLogger(name) for name in ROOMS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(told)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(told)
            logger.setLevel(level)


def _load(plugins: Sequence[str]) -> None:
    """Run installed plugins and the files that the user names: what they register is known."""
    from circuits.base.plugins import load_installed, load_plugin

    load_installed()
    for name in plugins:
        load_plugin(Path(name))


def _report(error: Exception) -> int:
    """One line on stderr, and the exit code of this kind of error."""
    kind = type(error).__name__
    if isinstance(error, KnowledgeCircuitsError):
        return _fail(str(error), error.exit_code, kind)
    if isinstance(error, typer.TyperException):
        return _fail(error.format_message(), error.exit_code, OptionError.__name__)
    if is_out_of_memory(error):
        text = "out of memory; try a smaller --batch-size, fewer --n-pairs or bf16"
        return _fail(text, 4, OutOfMemoryError.__name__)
    if isinstance(error, OSError) and error.strerror:  # a name too long, a disk that fails, ...
        text = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        return _fail(text, 4, StoreError.__name__)
    return _fail(f"unexpected {kind}: {error} ({DEBUG} shows where it happened)", 1, kind)


def _fail(message: str, code: int, kind: str) -> int:
    """The line, with `--json` as an object on stdout too where none was printed; the exit code."""
    text = visible(" ".join(message.split()))
    VOICE.tell(f"kc: error: {text}", ERROR)
    if VOICE.as_json and not VOICE.answered:
        record = {"error": {"kind": kind, "message": text, "exit_code": code}}
        print(json.dumps(stamped("error", record, f"Nothing was found: {text}"), indent=2))
        sys.stdout.flush()
    return code


def _quieten_libraries() -> None:
    """Settings of other people's libraries that hold for this process only."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")
    # Worker threads that spin while they wait make a run several times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    sys.exit(main())
