"""The server: one Dash app over one context, locked to this machine unless asked otherwise."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dash import Dash, dcc, html
from werkzeug.exceptions import HTTPException

from circuits.base.errors import OptionError
from viz.app import callbacks, live_callbacks, parts, report_page, routes, sweep_callbacks
from viz.app.context import Context
from viz.app.security import secure
from viz.app.state import ViewState

HOST = "127.0.0.1"
PORT = 8050
TITLE = "Knowledge Circuits"
HOME = Path(__file__).resolve().parents[1]
logger = logging.getLogger(__name__)
PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    {%metas%}
    <title>{%title%}</title>
    {%favicon%}
    {%css%}
  </head>
  <body>
    {%app_entry%}
    <footer>{%config%}{%scripts%}{%renderer%}</footer>
  </body>
</html>"""


def make_app(
    context: Context,
    host: str = HOST,
    allowed: Sequence[str] = (),
    embedded: bool = False,
) -> Dash:
    """The app for these results; `host` and `allowed` are the names it answers to.

    `embedded` lets a notebook on this machine show it in a frame.
    """
    app = Dash(
        "viz.app",
        title=TITLE,
        update_title=None,  # type: ignore[arg-type]
        suppress_callback_exceptions=True,
        serve_locally=True,
        include_pages_meta=False,
        add_log_handler=False,
        enable_mcp=False,
        index_string=PAGE,
    )
    secure(app.server, host, allowed, embedded)
    app.layout = html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="refresh", data=0),
            dcc.Store(id="title"),
            dcc.Store(id="nothing"),
            dcc.Store(id="subject"),
            dcc.Store(id="shown-edges"),
            dcc.Store(id="shown-boxes"),
            dcc.Download(id="download"),
            html.Header(
                [
                    html.A("Skip to the page", href="#page", className="skip"),
                    dcc.Link(
                        [html.Span(className="mark"), TITLE], href="?view=browse", className="brand"
                    ),
                    html.Nav(
                        [
                            dcc.Link("Results", href="?view=browse", id="nav-browse"),
                            dcc.Link("Try it", href="?view=try", id="nav-try"),
                        ],
                        **parts.aria(label="views"),
                    ),
                    html.Div(id="exports", className="exports"),
                ]
            ),
            html.Nav(
                id="siblings", className="siblings", **parts.aria(label="files of this result")
            ),
            html.Div(id="message", **parts.aria(live="assertive")),
            html.Main(id="page", tabIndex=-1),
        ],
        className="app",
    )
    routes.register(app, context)
    callbacks.register(app, context)
    live_callbacks.register(app, context)
    sweep_callbacks.register(app, context)
    report_page.register(app, context)
    app.server.register_error_handler(Exception, _refused)
    return app


def _refused(error: Exception) -> tuple[str, int]:
    """What no page sends is answered in a line with 400; a fault of ours is a 500 and logged."""
    if isinstance(error, HTTPException):
        return error.name, error.code or 400
    if _in_our_code(error):
        logger.error("a page failed: this is a fault of the app", exc_info=error)
        return "this page failed; the terminal says where", 500
    return "this request was not understood", 400


def _in_our_code(error: Exception) -> bool:
    """Whether one of our own functions was running when the error came up."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).is_relative_to(HOME) for frame in frames)


def run(app: Dash, host: str = HOST, port: int = PORT) -> None:
    """Serve until interrupted; OptionError where the port cannot be had."""
    check_port(host, port)
    quieten()
    # Named here so that neither HOST nor DASH_DEBUG of the environment has a say.
    app.run(
        host=host,
        port=port,
        debug=False,
        dev_tools_hot_reload=False,
        dev_tools_ui=False,
        use_reloader=False,
        threaded=True,
        jupyter_mode="_none",
    )


def quieten() -> None:
    """No line a request, and no banner: the command has said where the page is."""
    import flask.cli

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    flask.cli.show_server_banner = lambda *_: None  # type: ignore[assignment]


def warm_up(context: Context) -> None:
    """Make the first page once, so that the first reader does not wait for imports.

    What keeps that page from being made is said to its reader, and keeps no server from starting.
    """
    with suppress(Exception):
        routes.page_of(context, ViewState(), "", {})


def check_port(host: str, port: int) -> None:
    """OptionError where nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OptionError(
                f"cannot listen on {host}:{port}: {reason}; choose another `port`"
            ) from None


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: Any = probe.getsockname()[1]
        return int(port)
