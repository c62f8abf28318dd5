"""`kc`, the command line: options in, one line for every mistake, exit codes out.

Exit codes: 0 done; 2 a mistake in options or files; 3 no such model, or one that is not covered;
4 numbers or disk failed; 130 interrupted; 1 an error of this program (`--debug` shows where).
Commands import what they need when they run, so that `--help` needs no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from circuits.base.errors import KnowledgeCircuitsError
from experiments.cli import edit, figures, files, find, look, run, serve
from experiments.cli.console import visible

DEBUG = "--debug"
INTERRUPTED = 130

app = typer.Typer(
    help="Find, measure and compare the circuits that recall facts in language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"knowledge-circuits {version('knowledge-circuits')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error; works in any place.")
    ] = False,
) -> None:
    """Find, measure and compare the circuits that recall facts in language models."""


app.command()(find.discover)
app.command()(find.evaluate)
app.command()(look.trace)
app.command()(look.roles)
app.command()(look.lens)
app.command()(edit.edit)
app.command()(edit.unlearn)
app.command()(edit.compare)
app.command()(run.run)
app.command()(figures.figures)
app.command()(serve.serve)
app.command()(files.show)
app.command()(files.export)
app.command()(files.models)
app.command()(files.facts)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: runs a command and returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [argument for argument in given if argument != DEBUG] or ["--help"]
    _quieten_libraries()
    _open_streams()
    try:
        code = app(args=arguments, prog_name="kc", standalone_mode=False)
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
        if DEBUG in given:
            raise
        return _report(error)


def _report(error: Exception) -> int:
    """One line on stderr, and the exit code of this kind of error."""
    if isinstance(error, KnowledgeCircuitsError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, typer.TyperException):
        return _fail(error.format_message(), error.exit_code)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
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


def _quieten_libraries() -> None:
    """Settings of other people's libraries that hold for this process only."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_MODE", "disabled")
    # Worker threads that spin while they wait make a run several times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    sys.exit(main())
