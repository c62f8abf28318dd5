"""A result in a notebook: the app on a free local port, in a frame below the cell."""

from __future__ import annotations

import os
import sys
from typing import Any

from circuits.base.errors import OptionError
from circuits.files.kinds import kind_of_result
from viz.app.context import Context
from viz.app.library import Library, Record, about_content
from viz.app.server import HOST, free_port, make_app, quieten

MODES = ("inline", "external", "jupyterlab", "tab")


def context_of(result: Any) -> Context:
    """What the app shows: this result and nothing else; OptionError where it has no kind."""
    kind = kind_of_result(result)
    content = result.metadata()
    value = Record(kind.name, content) if kind.view == "record" else result
    library = Library(None)
    own = library.add("opened", f"this {kind.shown}", kind, value, about_content(content))
    return Context(library, opened=own.id)


def show(result: Any, *, height: int = 720, mode: str = "inline") -> None:
    """Start the app on this result and show it as Dash's `jupyter_mode` says."""
    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if elsewhere := _elsewhere():
        raise OptionError(
            f"this notebook runs on {elsewhere}, whose local ports your browser does not reach: "
            "`circuit.plot()` shows the circuit in the cell; or save it and run `kc serve` on "
            "your own machine"
        )
    quieten()
    make_app(context_of(result), embedded=True).run(
        host=HOST,
        port=free_port(),
        debug=False,
        jupyter_mode=mode,  # type: ignore[arg-type]
        jupyter_height=height,
    )


def _elsewhere() -> str | None:
    """The service that a notebook runs on, where it is not the browser's machine."""
    if "google.colab" in sys.modules:
        return "Colab"
    return "JupyterHub" if "JUPYTERHUB_SERVICE_PREFIX" in os.environ else None
