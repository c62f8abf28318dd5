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
    "roles_figure",
    "trace_figure",
    "written_figure",
]


def figure(result: Any, **options: Any) -> go.Figure:
    """The picture of a result on the screen; OptionError for a kind without one."""
    kind = kind_of_result(result)
    if not kind.screen:
        raise OptionError(f"a {kind.shown} has no picture on the screen")
    found: go.Figure = named(kind.screen[0])(result, **options)
    return found
