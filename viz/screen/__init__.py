"""Figures for the screen (plotly), in notebooks and in the app: result in, figure out.

They share `viz.theme` and `viz.layout` with the paper's pictures. Text from models and files is
shown as it is: plotly reads markup in labels, so that every text passes `viz.screen.style.plain`.
`figure` draws any stored kind of result; results draw themselves by it (`result.plot()`).
"""

from typing import Any

import plotly.graph_objects as go

from circuits.base.errors import OptionError
from circuits.files.kinds import kind_of_result, named
from viz.screen.circuit import circuit_figure
from viz.screen.curves import attribution_figure, curve_figure, followed_figure, lens_figure
from viz.screen.difference import difference_figure
from viz.screen.heads import attention_figure, roles_figure, written_figure
from viz.screen.heat_maps import trace_figure
from viz.screen.layers import layers_figure
from viz.screen.neurons import neurons_figure

__all__ = [
    "attention_figure",
    "attribution_figure",
    "circuit_figure",
    "curve_figure",
    "difference_figure",
    "figure",
    "followed_figure",
    "layers_figure",
    "lens_figure",
    "neurons_figure",
    "roles_figure",
    "trace_figure",
    "written_figure",
]


def figure(result: Any, what: str | None = None, **options: Any) -> go.Figure:
    """A picture of a result on the screen; `what` names one of its kind's, else it is the first.

    OptionError for a kind without such a picture.
    """
    kind = kind_of_result(result)
    chosen = next(iter(kind.screen), "") if what is None else what
    if chosen not in kind.screen:
        wanted = "" if what is None else f" {what!r:.60}"
        known = f"; there are {', '.join(kind.screen)}" if kind.screen else ""
        raise OptionError(f"a {kind.shown} has no picture{wanted} on the screen{known}")
    found: go.Figure = named(kind.screen[chosen])(result, **options)
    return found
