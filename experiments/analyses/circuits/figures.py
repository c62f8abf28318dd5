"""Figures of the report of `circuits`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from circuits.base.plain import number
from experiments.analyses.circuits.numbers import KINDS, grouped, hit
from experiments.analyses.engine.base import Figure, Part
from experiments.analyses.engine.claims import average
from viz.paper.charts import Dots, Lines, Matrix


def recall_figure(parts: Mapping[str, Part]) -> Figure:
    """Hit@10 by relation."""
    series = {kind: [hit(part, "test", kind) for part in parts.values()] for kind in KINDS}
    chart = Dots(
        [name.replace("_", " ") for name in parts],
        {
            "whole model": series["model"],
            "circuit": series["circuit"],
            "random circuits": series["random"],
        },
        "Hit@10 on subjects that had no part in finding the circuit",
        muted=("random circuits",),
        x_limits=(-0.02, 1.03),
    )
    return Figure(
        "hit_at_10",
        "Hit@10 on the test half by relation, with 95 % intervals over prompt pairs. "
        "Random circuits are connected and have as many edges.",
        chart.draw,
    )


def curve_figures(parts: Mapping[str, Part]) -> tuple[Figure, ...]:
    """Faithfulness against size, where it was measured."""
    curves = [part["curve"] for part in parts.values() if part.get("curve")]
    if not curves:
        return ()
    series = {}
    for name, label in (
        ("signed", "ranked by score"),
        ("absolute", "ranked by |score|"),
        ("random", "random edges"),
    ):
        stack = np.array([[number(x) for x in curve[name]["faithfulness"]] for curve in curves])
        series[label] = [average(column) for column in stack.T]
    fractions = curves[0]["absolute"]["fractions"]
    chart = Lines(
        list(range(len(fractions))),
        {"": series},
        "edges kept, %",
        ("faithfulness on the test half",),
        muted=("random edges",),
        x_names=[f"{float(f'{100 * share:.1g}'):g}" for share in fractions],
        width=4.6,
    )
    caption = (
        "Faithfulness on the test half against the share of edges kept, mean over "
        f"{len(curves)} relations with 95 % intervals over relations. Not pruned."
    )
    return (Figure("faithfulness", caption, chart.draw),)


def layer_figures(parts: Mapping[str, Part]) -> tuple[Figure, ...]:
    """Heat maps of categories by layers."""
    groups = grouped(parts)
    figures = []
    for name, what, caption in (
        ("heads_by_layer", "heads", "Share of a layer's attention heads that are in the circuit"),
        ("mlps_by_layer", "mlp", "Share of circuits that hold the layer's MLP"),
    ):
        values = np.array(
            [
                np.mean([part["layers"][what] for part in group.values()], 0)
                for group in groups.values()
            ]
        )
        layers = [str(layer) for layer in range(values.shape[1])]
        chart = Matrix(
            list(groups),
            layers,
            values,
            "share",
            column_title="layer",
            limits=(0.0, 1.0),
            width=5.0,
        )
        figures.append(
            Figure(name, f"{caption}, mean over the relations of a category.", chart.draw)
        )
    return tuple(figures)
