"""Where in the prompt and in the model a circuit of spans works: a heat map of signed scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from circuits.base.choices import Meaning
from circuits.base.errors import OptionError
from circuits.graph.by_span import by_layer
from circuits.graph.circuit import Circuit
from viz import theme
from viz.paper import canvas
from viz.paper.about import describe_origin
from viz.paper.heat_maps import LABEL_ROOM, layer_labels

ROW = 0.26
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [theme.OPPOSES.colour, theme.PAPER, theme.SUPPORTS.colour]
)
SCORED, COUNTED = "summed score of these edges", "edges"


def draw_spans(
    circuit: Circuit,
    path: str | Path,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """A row a span, a column a layer: the summed signed scores of the edges that start there.

    Without scores their number. Errors: OptionError for another suffix, an empty circuit or one
    that tells no spans apart, StoreError where the file cannot be written.
    """
    canvas.check_suffix(path)
    if not circuit.n_edges:
        raise OptionError("the circuit has no edge: nothing to draw")
    values = by_layer(circuit)
    names = [canvas.token(name) for name in circuit.wiring.spans]
    with canvas.paper_style():
        parts = [*describe_origin(circuit), f"{circuit.n_edges:,} edges by span"]
        parts.append("an edge counts where it starts")
        if circuit.meaning != Meaning.SIZE:
            blue, orange = (theme.edge_style(sign, circuit.meaning).legend for sign in (1, -1))
            parts[-1] += f"; blue: {blue}, orange: {orange}"
        caption = canvas.noted(parts, width, notes)
        left = 0.24 + max(canvas.text_width(name, 7.0) for name in names)
        top, foot = (0.42 if title else 0.16), 0.5 + 0.13 * len(caption)
        height = top + foot + ROW * len(names)
        across = width - left - 0.8
        figure = canvas.new_figure(width, height)
        box = (left / width, foot / height, across / width, ROW * len(names) / height)
        axes = figure.add_axes(box)
        largest = float(np.abs(values).max()) or 1.0
        rows, columns = (np.arange(size + 1) - 0.5 for size in values.shape)
        # Cells as polygons: a bitmap would blur in print.
        image = axes.pcolormesh(
            columns - 1,
            rows,
            values,
            cmap=SIGNED,
            vmin=-largest,
            vmax=largest,
            edgecolors=theme.PAPER,
            linewidth=0.5,
        )
        axes.invert_yaxis()
        axes.set_yticks(range(len(names)), names, size=7.0, parse_math=False)
        n_layers, most = circuit.wiring.n_layers, max(2, int(across / LABEL_ROOM / 2))
        axes.set_xticks(*layer_labels(n_layers, most, "in", across / (n_layers + 1)))
        axes.set_xlabel("layer")
        axes.tick_params(left=False, length=0)
        axes.spines[:].set(visible=True, color=theme.RULE, linewidth=0.5)
        side = ((width - 0.7) / width, foot / height, 0.08 / width, ROW * len(names) / height)
        bar = figure.colorbar(image, cax=figure.add_axes(side))
        bar.set_label("score" if circuit.scores is not None else COUNTED)
        bar.outline.set_visible(False)
        assert bar.solids is not None  # drawn above
        bar.solids.set(rasterized=False, edgecolor="face", linewidth=0.3)
        canvas.page_text(figure, title, caption)
        return canvas.save(figure, path, title or "Scores by span and layer", circuit.provenance)
