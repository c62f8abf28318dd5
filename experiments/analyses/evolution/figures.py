"""Figures of the report of `evolution`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Figure
from experiments.analyses.engine.claims import average
from experiments.analyses.evolution.numbers import (
    FINAL,
    accuracy,
    chance,
    faithfulness_in,
    last_spans,
    overlaps,
    recall_times,
    tick,
    transplanted,
)
from viz import theme
from viz.paper.charts import Lines, Matrix, Stacked

ROLES = ("mover", "relation", "mixture", "none")
ROLE_COLOURS = {
    **{role: style.line for role, style in theme.ROLES.items()},
    "none": theme.RULE,
}


def _over_training(found: Mapping[str, Any], panels: Any, y_label: str, **look: Any) -> Lines:
    """Curves over the checkpoints."""
    names = [tick(label) for label in found]
    places = list(range(len(names)))
    return Lines(places, panels, "training step", (y_label,), x_names=names, **look)


def overlap_figure(found: Mapping[str, Any]) -> Figure:
    """Overlap with the last circuits, and what the model knows."""
    labels = list(found)
    panels = {}
    for what in ("edges", "nodes"):
        panels[f"{what} shared with the last circuit"] = {
            "same subjects": [average(overlaps(found, x, what)) for x in labels],
            "circuit of other subjects": [average(overlaps(found, x, what, True)) for x in labels],
            "random circuit": [average(chance(found, what))] * len(labels),
        }
    panels["facts recalled"] = {"facts": [accuracy(found[label]) for label in labels]}
    chart = _over_training(
        found, panels, "share", muted=("random circuit",), y_limits=(-0.02, 1.03)
    )
    caption = (
        "Overlap (Jaccard index) of each checkpoint's circuits with the last model's, found on the "
        "same or on other subjects, and the share of facts recalled. Means with 95 % intervals "
        "over relations, on the right over facts."
    )
    return Figure("overlap", caption, chart.draw)


def entropy_figure(found: Mapping[str, Any]) -> Figure:
    """Entropy of |score| over training."""
    labels = list(found)
    entropy = [
        average(np.array([number(part["entropy"]) for part in found[label].values()]))
        for label in labels
    ]
    faint = [[number(found[label][name]["entropy"]) for label in labels] for name in found[FINAL]]
    panels = {"": {"mean": entropy}}
    chart = _over_training(found, panels, "entropy of |score|, bits", faint={"": faint}, width=3.6)
    return Figure(
        "entropy",
        "Entropy of |score| over the circuit's edges: low where few edges carry most. Mean over "
        "relations with 95 % intervals; grey: single relations.",
        chart.draw,
    )


def matrix_figures(labels: Sequence[str], runs: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Transplants as matrices."""
    rows = [*labels, "random"]
    figures = []
    for name, what, title in (("faithfulness", "metric", "Faithfulness"), ("hit", "hit", "Hit@10")):
        values = np.array(
            [
                [average(transplanted(runs, circuit, model, what)).value for model in labels]
                for circuit in rows
            ]
        )
        chart = Matrix(
            [tick(label) for label in rows],
            [tick(label) for label in labels],
            values,
            title,
            row_title="circuit of step",
            column_title="run in the model of step",
            limits=(0.0, 1.0),
            width=5.6,
        )
        figures.append(
            Figure(
                f"transplants_{name}",
                f"{title} of each checkpoint's circuits (rows; last row: random circuits) in each "
                "checkpoint (columns), mean over relations"
                + ("; empty where undefined." if what == "metric" else "."),
                chart.draw,
            )
        )
    return tuple(figures)


def layer_figure(found: Mapping[str, Any]) -> Figure:
    """Where the edges leave from."""
    labels = list(found)
    stacks = {
        label: np.mean([part["layers"] for part in found[label].values()], 0) for label in labels
    }
    n_layers = len(stacks[FINAL])
    names = ["emb.", *map(str, range(n_layers - 1))]
    values = np.array([stacks[label] for label in labels])
    chart = Matrix(
        [tick(label) for label in labels],
        names,
        values,
        "edges",
        row_title="training step",
        column_title="layer that writes",
        digits=0,
        width=5.0,
    )
    return Figure(
        "layers", "Edges of the circuit by the layer they leave, mean over relations.", chart.draw
    )


def role_figure(found: Mapping[str, Any]) -> Figure:
    """Shares of the heads' roles."""
    labels = list(found)
    shares: dict[str, list[float]] = {role: [] for role in ROLES}
    for label in labels:
        for role in ROLES:
            counts = [
                part["roles"].get(role, 0) / max(1, sum(part["roles"].values()))
                for part in found[label].values()
            ]
            shares[role].append(float(np.mean(counts)))
    chart = Stacked(
        [tick(label) for label in labels],
        {("no role" if role == "none" else role): shares[role] for role in ROLES},
        "training step",
        "share of the circuit's heads",
        colours={**ROLE_COLOURS, "no role": theme.RULE},
        width=4.6,
    )
    return Figure(
        "roles", "Roles of the heads in the circuits, mean share over relations.", chart.draw
    )


def early_figure(found: Mapping[str, Any], runs: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Faithfulness of the checkpoint's own circuit on facts recalled early and late."""
    labels, times, spans = list(found), recall_times(found), last_spans(runs)
    series: dict[str, list[Interval]] = {"recalled early": [], "recalled late": []}
    for label in labels:
        values: dict[str, list[float]] = {name: [] for name in series}
        for relation, run in runs[label].items():
            n = len(run["model"]["metric"])
            held_out = np.array(times[relation][-n:])
            middle = np.median(held_out)
            for name, chosen in (
                ("recalled early", held_out < middle),
                ("recalled late", held_out >= middle),
            ):
                if not chosen.any() or chosen.all():
                    continue
                part = {
                    key: {"metric": np.array(run[key]["metric"])[chosen]}
                    for key in ("model", "empty")
                }
                metric = np.array(run["circuits"][label]["metric"])[chosen].tolist()
                values[name].append(faithfulness_in(part, metric, spans[relation]))
        for name, found_values in values.items():
            series[name].append(average(np.array(found_values)))
    if not any(np.isfinite(point.value) for point in series["recalled early"]):
        return ()
    label = "faithfulness of the checkpoint's circuit"
    chart = _over_training(found, {"": series}, label, width=4.6)
    caption = (
        "Faithfulness of each checkpoint's circuit in that checkpoint, on the facts of a relation "
        "that are recalled earlier and later than its median fact; mean over relations with 95 % "
        "intervals."
    )
    return (Figure("early_and_late", caption, chart.draw),)
