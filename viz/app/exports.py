"""The current view as a picture for a paper, and its numbers for other programs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.writing import as_csv, to_json
from circuits.files.drawings import to_csv, to_graphml, to_node_link
from circuits.files.kinds import REPORT, SWEEP, Kind, kind_of_result
from circuits.graph.circuit import Circuit
from viz.app.difference_page import NOISE, comparison_of
from viz.app.library import Record
from viz.app.workspace import Collapsed
from viz.paper import draw
from viz.paper.difference import either_circuit
from viz.screen.boxes import groups_of

PICTURES = ("svg", "pdf", "png")
DATA = ("csv", "graphml", "json")


def formats_of(kind: Kind) -> tuple[str, ...]:
    """What a kind of result can be exported as."""
    if kind in (SWEEP, REPORT):
        return ()  # `kc sweep table` writes all of it, and a report is a folder of files
    pictures = PICTURES if kind.figures and kind.view != "rows" else ()
    if kind.graph:
        return (*pictures, *DATA)
    return (*pictures, "csv", "json") if kind.view != "record" else ("json",)


def exported(
    value: Any,
    format: str,
    title: str,
    shown: Sequence[str] | None = None,
    collapsed: Collapsed = (),
    noise: str = "",
) -> bytes:
    """A result in a format.

    Pictures of circuits and differences have the edges that `shown` names, which are those of the
    current view, and no others; pictures of other kinds take no notice of it. A circuit's has the
    boxes of the groups that are `collapsed`, a difference marks noise as a link's `noise` says.
    """
    if format in PICTURES:
        return _picture(value, format, title, shown, collapsed, noise)
    if format == "graphml":
        return to_graphml(_graph(value))
    if format == "csv":
        return _csv(value).encode()
    return _json(value).encode()


def _picture(
    value: Any,
    format: str,
    title: str,
    shown: Sequence[str] | None,
    collapsed: Collapsed,
    noise: str,
) -> bytes:
    options: dict[str, Any] = {}
    if kind_of_result(value).graph:
        circuit = value if isinstance(value, Circuit) else either_circuit(comparison_of(value))
        if shown is not None:
            circuit = _part(circuit, shown)
            options["only"] = circuit.kept
        if isinstance(value, Circuit):
            drawn, boxes = set(circuit.nodes()), groups_of(collapsed, circuit.wiring)
            options["groups"] = {name: each for name, each in boxes.items() if drawn & set(each)}
        else:
            options["noise"] = NOISE.get(noise)
    with tempfile.TemporaryDirectory(prefix="kc-export-") as folder:
        path = Path(folder) / f"figure.{format}"
        draw(value, path, title=title, **options)
        return path.read_bytes()


def _part(circuit: Circuit, shown: Sequence[str]) -> Circuit:
    """The circuit's edges of these names alone."""
    kept = np.zeros_like(circuit.kept)
    for name in shown:
        kept[circuit.wiring.edge_index(name)] = True
    return circuit.keeping(kept & circuit.kept)


def _graph(value: Any) -> Circuit:
    if isinstance(value, Circuit):
        return value
    comparison = comparison_of(value)
    union = either_circuit(comparison)
    columns = {
        "in_before": comparison.before.kept.astype(np.float32),
        "in_after": comparison.after.kept.astype(np.float32),
    }
    if comparison.scores is not None:
        columns |= {
            f"score_{side}": values
            for side, values in zip(("before", "after"), comparison.scores, strict=True)
        }
    return replace(union, columns=columns)


def _rows(value: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        [dict(value.metadata)] if isinstance(value, Record) else value.rows()
    )
    return rows


def _csv(value: Any) -> str:
    if isinstance(value, Circuit):
        return to_csv(value)
    return as_csv(_rows(value))


def _json(value: Any) -> str:
    if isinstance(value, Circuit):
        return to_node_link(value)
    rows = [{key: _finite(each) for key, each in row.items()} for row in _rows(value)]
    return to_json({"rows": rows}, indent=2)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
