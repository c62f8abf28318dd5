"""Figures for the screen (plotly), in notebooks and in the app: result in, figure out.

They share `viz.theme` and `viz.layout` with the paper's pictures. Text from models and files is
shown as it is: plotly reads markup in labels, so that every text passes `viz.screen.style.plain`.
"""

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
    "followed_figure",
    "layers_figure",
    "lens_figure",
    "roles_figure",
    "trace_figure",
    "written_figure",
]
