"""`kc`, the command line: options in, one line for every mistake, exit codes out.

Exit codes: 0 done; 2 a mistake in options or files; 3 no such model, or one that is not covered;
4 numbers or disk failed; 130 interrupted; 1 an error of this program (`--debug` shows where).
Commands import what they need when they run, so that `--help` needs no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import viz
from circuits.base.errors import KnowledgeCircuitsError, OptionError, is_out_of_memory
from experiments.cli import (
    bench,
    benchmark,
    edit,
    facts,
    figures,
    files,
    find,
    look,
    mib,
    run,
    serve,
    sweep,
)
from experiments.cli.console import visible
from experiments.cli.signature import command

DEBUG = "--debug"
PLUGIN = "--plugin"
PLUGINS = "KC_PLUGINS"
INTERRUPTED = 130

COMMANDS = (
    *(find.discover, find.evaluate, look.trace, look.roles, look.lens),
    *(edit.edit, edit.unlearn, edit.compare, run.run, benchmark.benchmark),
    *(sweep.sweep, figures.figures, serve.serve),
    *(files.show, files.export, files.push, files.models, facts.facts),
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
) -> None:
    """Find, measure and compare the circuits that recall facts in language models."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: runs a command and returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in given
    _quieten_libraries()
    _open_streams()
    viz.offer()
    try:
        arguments, plugins = _apart([word for word in given if word != DEBUG])
        _load(plugins)
        code = make_app()(args=arguments or ["--help"], prog_name="kc", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:
            return _fail("interrupted", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except (BrokenPipeError, SystemExit):  # the reader of a pipe has seen enough; Click exits then
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        return _report(error)


def _apart(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--plugin FILE`, wherever it stands, and the files of plugins."""
    rest: list[str] = []
    plugins = [name for name in os.environ.get(PLUGINS, "").split(os.pathsep) if name]
    words = iter(given)
    for word in words:
        if "\0" in word or any("\ud800" <= char <= "\udfff" for char in word):
            raise OptionError(f"{word!r} is no text in UTF-8")
        name, sign, value = word.partition("=")
        if word == "--":
            return [*rest, word, *words], plugins
        if name != PLUGIN:
            rest.append(word)
        elif file := value if sign else next(words, ""):
            plugins.append(file)
        else:
            raise OptionError(f"{PLUGIN} needs a file")
    return rest, plugins


def _load(plugins: Sequence[str]) -> None:
    """Run installed plugins and the files that the user names: what they register is known."""
    from circuits.base.plugins import load_installed, load_plugin

    load_installed()
    for name in plugins:
        load_plugin(Path(name))


def _report(error: Exception) -> int:
    """One line on stderr, and the exit code of this kind of error."""
    if isinstance(error, KnowledgeCircuitsError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, typer.TyperException):
        return _fail(error.format_message(), error.exit_code)
    if is_out_of_memory(error):
        return _fail("out of memory; try a smaller --batch-size, fewer --n-pairs or bf16", 4)
    if isinstance(error, OSError) and error.strerror:  # a name too long, a disk that fails, ...
        return _fail(": ".join(str(part) for part in (error.filename, error.strerror) if part), 4)
    kind = type(error).__name__
    return _fail(f"unexpected {kind}: {error} ({DEBUG} shows where it happened)", 1)


def _fail(message: str, code: int) -> int:
    print(f"kc: error: {visible(' '.join(message.split()))}", file=sys.stderr)
    return code


def _open_streams() -> None:
    """Give a process that was started without stdout or stderr one that swallows everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")  # letters it does not have


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
