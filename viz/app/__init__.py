"""The app: results of a folder, browsed and drawn in the browser. Nothing else imports dash.

`kc serve` starts it on a folder, `circuit.explore()` shows one circuit in a notebook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuits.base.places import check_extra

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit

__all__ = ["PACKAGES", "explore"]

PACKAGES = ("dash", "dash_ag_grid", "plotly")
"""What the app needs beside the rest of the project."""


def explore(circuit: Circuit, *, height: int = 720, mode: str = "inline") -> None:
    """Show a circuit in a notebook: sliders, search, details, exports.

    `mode` is Dash's `jupyter_mode`: inline, external, jupyterlab or tab. The server listens on
    127.0.0.1 only, on a port that is free.
    """
    check_extra("notebook", "explore()", *PACKAGES)
    from viz.app.inline import show

    show(circuit, height=height, mode=mode)
