"""`kc serve`: the app on a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuits.base.errors import OptionError
from circuits.base.places import check_extra
from experiments.cli.console import Console
from experiments.cli.signature import Like
from locate.options import Loading
from viz.app import PACKAGES

DEMO = Path("out") / "demo"

Folder = Annotated[
    Path | None,
    typer.Argument(
        help="A folder of results, with its folders; default: out/demo, else out.",
        metavar="[DIR]",
    ),
]
HostName = Annotated[
    str,
    typer.Option("--host", help="Address to listen on; any but this machine's own is a risk."),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option("--allow-host", help="A further name that the server answers to; repeatable."),
]
ServedModels = Annotated[
    list[str] | None,
    typer.Option(
        "--model", "-m", help="A model for `Try it` beside those that ship here; repeatable."
    ),
]
Opens = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")]


def serve(
    *,
    folder: Folder = None,
    host: HostName = "127.0.0.1",
    port: Port = 8050,
    allow_host: AllowedHost = None,
    model: ServedModels = None,
    device: Annotated[str | None, Like(Loading, "device")] = None,
    open_page: Opens = False,
) -> None:
    """Browse results in the browser: circuits, differences, traces; try prompts and edits live."""
    console = Console(False)
    if not host.strip():  # an unset variable; it would mean every address of this machine
        raise OptionError("`host` is empty; leave it out for this machine only")
    root = _root(folder)
    check_extra("app", "the app", *PACKAGES)
    from viz.app.context import Context, Models, embedded_names
    from viz.app.library import Library
    from viz.app.security import is_loopback
    from viz.app.server import check_port, free_port, make_app, run, warm_up

    port = port or free_port()
    check_port(host, port)
    names = tuple(dict.fromkeys((*(model or ()), *embedded_names())))
    context = Context(Library(root), Models(names, device))
    n_results = len(context.library.entries())
    if root is None or not n_results:
        console.note("no results here yet; `make demo` makes some, `Try it` works without")
    if not is_loopback(host):
        console.warn(
            f"listening on {host}: whoever can reach this machine can read the results and use "
            "the model"
        )
    app = make_app(context, host, allow_host or ())
    warm_up(context)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/"
    console.say(f"{n_results} results{f' in {root}' if root else ''}; open {url}  (Ctrl-C ends)")
    if open_page:
        import webbrowser

        webbrowser.open(url)
    run(app, host, port)


def _root(folder: Path | None) -> Path | None:
    """The folder asked for; without one the demo's, or the folder of all results."""
    if folder is None:
        return next((path for path in (DEMO, DEMO.parent) if path.is_dir()), None)
    if not folder.is_dir():
        raise OptionError(f"{folder} is no folder; name one with results in it")
    return folder
