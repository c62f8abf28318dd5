"""The current view as a picture for a paper, and its numbers for other programs."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.errors import OptionError
from circuits.base.writing import to_json
from circuits.files.drawings import to_csv, to_graphml, to_node_link
from circuits.graph.circuit import Circuit
from circuits.graph.compare import Comparison
from viz.app.difference_page import comparison_of
from viz.app.library import Kind
from viz.app.loaders import Record, StoredAttribution, StoredLens
from viz.paper.difference import either_circuit

PICTURES = ("svg", "pdf", "png")
DATA = ("csv", "graphml", "json")


def formats_of(kind: Kind) -> tuple[str, ...]:
    """What a kind of result can be exported as."""
    match kind:
        case Kind.CIRCUIT | Kind.COMPARISON | Kind.REWIRING:
            return (*PICTURES, *DATA)
        case Kind.TRACE | Kind.AVERAGE_TRACE | Kind.LENS | Kind.AVERAGE_LENS:
            return (*PICTURES, "csv", "json")
        case Kind.ATTRIBUTION | Kind.CURVES | Kind.ROLES | Kind.HEADS:
            return ("csv", "json")
    return ("json",)


def exported(value: Any, format: str, title: str, shown: Sequence[str] | None = None) -> bytes:
    """A result in a format; of circuit-like ones `shown` names the edges of the current view."""
    if format in PICTURES:
        return _picture(value, format, title, shown)
    if format == "graphml":
        return to_graphml(_graph(value))
    if format == "csv":
        return _csv(value).encode()
    return _json(value).encode()


def only(circuit: Circuit, shown: Sequence[str]) -> Circuit:
    """The circuit with the edges shown and no others; what is said of the whole is left out."""
    kept = np.zeros_like(circuit.kept)
    for name in shown:
        kept[circuit.wiring.edge_index(name)] = True
    if bool((kept & circuit.kept).sum() == circuit.n_edges):
        return circuit
    origin = {key: each for key, each in circuit.provenance.items() if key != "faithfulness"}
    origin["shown"] = f"{int(kept.sum())} of {circuit.n_edges} edges"
    return replace(circuit, kept=kept & circuit.kept, provenance=origin)


def _picture(value: Any, format: str, title: str, shown: Sequence[str] | None) -> bytes:
    with tempfile.TemporaryDirectory(prefix="kc-export-") as folder:
        path = Path(folder) / f"figure.{format}"
        if isinstance(value, Circuit):
            from viz.paper.circuit import draw_circuit

            circuit = value if shown is None else only(value, shown)
            draw_circuit(circuit, path, title, max_edges=max(1, circuit.n_edges))
        elif isinstance(value, Comparison) or hasattr(value, "comparison"):
            from viz.paper.difference import draw_difference

            comparison = comparison_of(value)
            count = max(1, len(shown)) if shown is not None else 120
            draw_difference(comparison, path, title, max_edges=count)
        elif isinstance(value, StoredLens):
            _draw_lens(value, path, title)
        elif hasattr(value, "p_clean"):
            from viz.paper.curves import draw_average_trace, draw_trace

            (draw_trace if hasattr(value, "prompt") else draw_average_trace)(value, path, title)
        else:
            raise OptionError(f"there is no picture of this to export as {format}")
        return path.read_bytes()


def _draw_lens(value: StoredLens, path: Path, title: str) -> None:
    from viz.paper.lenses import draw_average_lens, draw_lens

    if value.average is not None:
        draw_average_lens(value.average, path, title)
        return
    place = value.lines.places[0]
    sides = [
        {name: line.values for name, line in side[place].items()}
        for side in (value.lines.ranks, value.lines.probabilities)
    ]
    draw_lens(sides[0], sides[1], path, title, value.metadata.get("provenance"))


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
    if isinstance(value, StoredLens):
        return value.rows
    if isinstance(value, StoredAttribution):
        return [
            {"source": name, "contribution": each}
            for name, each in zip(value.names, value.values, strict=True)
        ]
    if isinstance(value, Record):
        return [dict(value.metadata)]
    source = comparison_of(value) if hasattr(value, "comparison") else value
    rows: list[dict[str, Any]] = source.rows()
    return rows


def _csv(value: Any) -> str:
    if isinstance(value, Circuit):
        return to_csv(value)
    rows = _rows(value)
    buffer = io.StringIO()
    names = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _json(value: Any) -> str:
    if isinstance(value, Circuit):
        return to_node_link(value)
    rows = [{key: _finite(each) for key, each in row.items()} for row in _rows(value)]
    return to_json({"rows": rows}, indent=2)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
