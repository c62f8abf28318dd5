"""The app: results of a folder, browsed and drawn in the browser. Nothing else imports dash.

`kc serve` starts it on a folder, `result.explore()` shows one result in a notebook.
"""

from __future__ import annotations

from typing import Any

from circuits.base.places import check_extra

__all__ = ["PACKAGES", "explore"]

PACKAGES = ("dash", "dash_ag_grid", "plotly")
"""What the app needs beside the rest of the project."""


def explore(result: Any, *, height: int = 720, mode: str = "inline") -> None:
    """Show a stored kind of result in a notebook: sliders, search, details, exports.

    `mode` is Dash's `jupyter_mode`: inline, external, jupyterlab or tab. The server listens on
    127.0.0.1 only, on a port that is free.
    """
    check_extra("notebook", "explore()", *PACKAGES)
    from viz.app.inline import show

    show(result, height=height, mode=mode)
