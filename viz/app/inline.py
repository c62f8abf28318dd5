"""A circuit in a notebook: the app on a free local port, in a frame below the cell."""

from __future__ import annotations

from circuits.files.kinds import KINDS
from circuits.graph.circuit import Circuit
from viz.app.context import Context
from viz.app.library import Library
from viz.app.server import HOST, free_port, make_app, quieten

MODES = ("inline", "external", "jupyterlab", "tab")


def show(circuit: Circuit, *, height: int = 720, mode: str = "inline") -> None:
    """Start the app on this circuit and show it as Dash's `jupyter_mode` says."""
    from circuits.base.errors import OptionError

    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
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
