"""What is printed and stored of neurons: what the best of each MLP carry, and what they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.base.display import token_name
from circuits.base.intervals import Interval
from circuits.base.writing import as_csv, atomic_write
from locate.looks.look import Look, Table, describe, warnings_of
from locate.looks.says import says
from locate.looks.says.words import percents
from locate.neurons.report import NeuronReport

FILES = ("neurons.kc.safetensors", "neurons.csv")


def neurons(found: NeuronReport) -> Look:
    """MLPs by what patching them costs, with the shares of their best neurons; the first's best."""
    origin, rows = found.provenance, found.rows()
    summary: dict[str, Any] = {
        "model": origin.get("model"),
        "relation": origin.get("relation"),
        "pairs": len(found.nodes),
        "mlps": found.records(),
        "neurons": rows,
        "warnings": warnings_of(origin),
        "provenance": dict(origin),
    }
    return Look(
        "neurons",
        says(found),
        summary,
        tables=(_shares(found), *(_best(found, mlp) for mlp in _told(found))),
        lines=(
            *describe(origin, len(found.nodes)),
            f"chosen on {origin.get('found_on')} pairs, tested on {len(found.nodes)} "
            f"({origin.get('measured_on')}); of {origin.get('scored_mlps')} MLPs "
            f"{len(found.mlps)} are tested; intervals {origin.get('intervals', 'over pairs')}",
        ),
        files={
            "neurons.kc.safetensors": found.save,
            "neurons.csv": lambda path: atomic_write(path, as_csv(rows)),
        },
    )


def _shares(found: NeuronReport) -> Table:
    header = ("MLP", "patching it costs", *(f"best {n}" for n in found.sizes))
    header = (*header, f"random {found.sizes[-1]}")
    rows = []
    for mlp in found.order:
        shares = found.shares(mlp)
        cells = [*(each.share for each in shares), shares[-1].random]
        told = map(_percent, cells) if found.matters(mlp) else ["" for _ in cells]
        rows.append((mlp, str(found.cost(mlp)), *told))
    title = "MLPs, and the share of that which patching their best neurons alone costs:"
    return Table(title, header, rows).first("neurons.kc.safetensors (`--out`) and `--json`")


def _told(found: NeuronReport) -> list[str]:
    """The MLP that matters most, and that of which fewest neurons carry much."""
    return list(dict.fromkeys(filter(None, (found.order[0], found.sparsest))))


def _best(found: NeuronReport, mlp: str) -> Table:
    rows = [
        (
            each.name,
            str(each.score),
            f"{each.reading.place} {100 * each.reading.share:.0f} %",
            " ".join(map(token_name, each.reading.tokens)),
            " ".join(map(token_name, each.reading.writes)),
        )
        for each in found.neurons(mlp)
    ]
    title = f"best neurons of {mlp}, whose neurons' scores sum to {found.node(mlp)!s}:"
    header = ("neuron", "score", "does most at", "there", "raises")
    return Table(title, header, rows).first("neurons.csv (`--out`) and `--json`")


def _percent(value: Interval) -> str:
    return percents(value) if np.isfinite(value.value) else "undefined"
