"""A result in a notebook: the app on a free local port, in a frame below the cell."""

from __future__ import annotations

from typing import Any

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
    context = Context(Library(None))
    context.library.add(f"this {kind.shown}", kind, value, about_content(content))
    return context


def show(result: Any, *, height: int = 720, mode: str = "inline") -> None:
    """Start the app on this result and show it as Dash's `jupyter_mode` says."""
    from circuits.base.errors import OptionError

    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    quieten()
    make_app(context_of(result), embedded=True).run(
        host=HOST,
        port=free_port(),
        debug=False,
        jupyter_mode=mode,  # type: ignore[arg-type]
        jupyter_height=height,
    )
