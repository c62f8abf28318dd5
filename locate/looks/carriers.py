"""What carries edges between features, ready to be printed, sent as JSON and stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from circuits.base.writing import as_csv, atomic_write
from locate.features.carriers import Carriers
from locate.looks.look import Look, Table
from locate.looks.says import says

GRAPH = "graph.json"
FITS = 0.02
"""Totals nearer than this to a graph's weights, as a share of their size, are called the same."""
FILES = ("carriers.kc.safetensors", "carriers.csv", GRAPH)


def carriers(found: Carriers, graph: Path | None = None) -> Look:
    """The parts of an edge, or of several with the heads that carry most.

    With the file of a `graph` a copy of it is written whose links say what carries them.
    """
    files: dict[str, Callable[[Path], Any]] = {
        "carriers.kc.safetensors": found.save,
        "carriers.csv": lambda path: atomic_write(path, as_csv(found.rows())),
    }
    if graph is not None:
        files[GRAPH] = lambda path: found.annotate(graph, path)
    return Look(
        "carriers",
        says(found),
        {
            "model": found.provenance["model"],
            "prompt": found.prompt,
            "tokens": list(found.tokens),
            "off_weights": found.misfit(),
            "edges": found.edge_rows(),
            "carriers": found.rows(),
            "shares": found.shares(),
            "provenance": dict(found.provenance),
        },
        tables=[_parts(found)] if len(found.total) == 1 else [_edges(found), _shares(found)],
        files=files,
    )


def _parts(found: Carriers) -> Table:
    rows = [
        (row["carrier"], f"{row['value']:+.3g}", _percent(row["share"])) for row in found.rows()
    ]
    title = f"what carries it (of {float(found.total[0]):+.3g}):"
    return Table(title, ("carrier", "part", "share"), rows).first("carriers.csv and `--json`")


def _edges(found: Carriers) -> Table:
    weighed = len(found.weight) > 0
    names = ("total", "residual", "heads", "rest")
    header = ("source", "target", *names, "strongest head", *(("graph's",) if weighed else ()))
    rows = [
        (
            found.label(found.source[edge]),
            found.label(found.target[edge]),
            *(f"{each[name]:+.3g}" for name in names),
            f"{each['strongest_head'] or 'none'} {each['strongest']:+.3g}",
            *((f"{each['weight']:+.3g}",) if weighed else ()),
        )
        for edge, each in enumerate(found.edge_rows())
    ]
    title = "edges: through no head, through one head (all summed), through two and more:"
    return Table(title, header, rows).first("carriers.csv and `--json`")


def _shares(found: Carriers) -> Table:
    rows = [(name, _percent(share)) for name, share in found.shares().items() if share]
    title = "share of all that these edges carry:"
    return Table(title, ("carrier", "share"), rows).first("`--json`")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
