"""A circuit in a notebook: the app on a free local port, in a frame below the cell."""

from __future__ import annotations

import os
import sys

from circuits.base.errors import OptionError
from circuits.files.kinds import KINDS
from circuits.graph.circuit import Circuit
from viz.app.context import Context
from viz.app.library import Library
from viz.app.server import HOST, free_port, make_app, quieten

MODES = ("inline", "external", "jupyterlab", "tab")


def show(circuit: Circuit, *, height: int = 720, mode: str = "inline") -> None:
    """Start the app on this circuit and show it as Dash's `jupyter_mode` says.

    OptionError in a notebook that runs on another machine than the browser.
    """

    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if elsewhere := _elsewhere():
        raise OptionError(
            f"this notebook runs on {elsewhere}, whose local ports your browser does not reach: "
            "`circuit.plot()` shows the circuit in the cell; or save it and run `kc serve` on "
            "your own machine"
        )
    context = Context(Library(None))
    origin = circuit.provenance
    about = {name: origin[name] for name in ("model", "relation", "method") if name in origin}
    context.library.add(
        "this circuit", KINDS["circuit"], circuit, {**about, "size": circuit.n_edges}
    )
    quieten()
    make_app(context, embedded=True).run(
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
