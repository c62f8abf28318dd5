"""Results as a JSON summary and as a page to read; numbers only, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.intervals import Interval
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import Evaluation, FaithfulnessCurve
from locate.discover import Discovery
from locate.evaluate import StoredEvaluation

Row = Sequence[str]
N_STRONGEST = 10
SMALL_DROP = 0.001
"""An edge without which faithfulness loses less than this is called idle."""


def number(value: float) -> float | None:
    """For JSON: null where a number is undefined."""
    return float(value) if np.isfinite(value) else None


def measures(evaluation: Evaluation) -> dict[str, Any]:
    """Means of the measures, and under `intervals` the same with their 95 % intervals."""
    return {
        "pairs": evaluation.n_pairs,
        "clean": number(evaluation.clean.value),
        "corrupted": number(evaluation.corrupted.value),
        "circuit": number(evaluation.circuit.value),
        "faithfulness": number(evaluation.faithfulness.value),
        "completeness": number(evaluation.completeness.value),
        "random_faithfulness": number(evaluation.random_faithfulness.value),
        "hit_at_10": {name: number(rate.value) for name, rate in evaluation.hit_at_10.items()},
        "intervals": evaluation.as_dict(),
    }


def discovery_summary(found: Discovery, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Everything about a discovery but the arrays.

    Measures at the top are those on the pairs that found the circuit; `held_out` has those on
    pairs of other subjects, null where there are none.
    """
    circuit, search = found.circuit, found.search
    selection = circuit.provenance.get("selection", {})
    return {
        "model": found.model,
        **search.record(),
        "relation": found.examples.name,
        **measures(found.evaluation),
        "edges": circuit.n_edges,
        "edges_selected": selection.get("edges_selected"),
        "edges_in_model": circuit.wiring.n_edges,
        "nodes": found.evaluation.n_nodes,
        "held_out": None if found.held_out is None else measures(found.held_out),
        "facts": found.examples.counts,
        "stability": {"resamples": search.resamples, **found.stability}
        if found.stability
        else None,
        "curve": None if found.curve is None else curve_summary(found.curve),
        "random_curve": None if found.random_curve is None else curve_summary(found.random_curve),
        "roles": dict(circuit.roles),
        "strongest_edges": strongest_edges(circuit),
        "selection": selection,
        "bos": found.examples.bos,
        "seed": search.seed,
        "provenance": dict(circuit.provenance),
        "seconds": found.seconds,
        "warnings": list(found.notes),
        "files": [str(path) for path in files],
    }


def evaluation_summary(done: StoredEvaluation, path: Path) -> dict[str, Any]:
    """Everything about the evaluation of a stored circuit."""
    return {
        "model": done.model,
        "file": str(path),
        "method": done.circuit.provenance.get("method"),
        "metric": str(done.metric),
        "ablation": str(done.ablation),
        "relation": done.examples.name,
        **measures(done.evaluation),
        "edges": done.circuit.n_edges,
        "edges_in_model": done.circuit.wiring.n_edges,
        "nodes": done.evaluation.n_nodes,
        "minimality": None if done.drops is None else minimality(done.circuit, done.drops),
        "facts": done.examples.counts,
        "bos": done.examples.bos,
        "warnings": [*done.warnings, *done.examples.notes],
    }


def minimality(circuit: Circuit, drops: Float[np.ndarray, " kept_edge"]) -> dict[str, Any]:
    """What faithfulness loses without each single kept edge, largest loss first.

    `idle` counts edges without which it loses less than `SMALL_DROP`, or gains.
    """
    kept = list(circuit.edges())
    order = np.argsort(-drops, kind="stable")
    return {
        "idle": int((drops < SMALL_DROP).sum()),
        "below": SMALL_DROP,
        "edges": [
            {"edge": circuit.wiring.edge_name(kept[i]), "drop": number(float(drops[i]))}
            for i in order
        ],
    }


def curve_summary(curve: FaithfulnessCurve) -> dict[str, Any]:
    """A faithfulness curve with CPR and CMD, the areas over it."""
    return {
        "edges": list(curve.sizes),
        "fraction": list(curve.fractions),
        "faithfulness": [point.as_dict() for point in curve.faithfulness],
        "cpr": curve.area.as_dict(),
        "cmd": curve.distance.as_dict(),
    }


def strongest_edges(circuit: Circuit, n: int = N_STRONGEST) -> list[dict[str, Any]]:
    """The kept edges of largest |score|, with their columns; in canonical order without scores."""
    kept = np.flatnonzero(circuit.kept)
    if circuit.scores is not None:
        kept = kept[np.argsort(-np.abs(circuit.scores.values[kept]), kind="stable")]
    records = []
    for edge in kept[:n].tolist():
        record: dict[str, Any] = {"edge": circuit.wiring.edge_name(edge)}
        if circuit.scores is not None:
            record["score"] = float(circuit.scores.values[edge])
        for name, column in circuit.columns.items():
            record[name] = float(column[edge])
        records.append(record)
    return records


def measure_rows(sides: Mapping[str, Evaluation]) -> tuple[Row, list[Row]]:
    """A table of measures, one column a side."""

    def row(label: str, read: Any) -> Row:
        return (label, *(str(read(side)) for side in sides.values()))

    def hits(name: str) -> Any:
        return lambda side: side.hit_at_10.get(name, Interval(np.nan, np.nan, np.nan))

    rows: list[Row] = [
        row("pairs", lambda side: side.n_pairs),
        row("metric, whole model", lambda side: side.clean),
        row("metric, nothing kept", lambda side: side.corrupted),
        row("metric, circuit", lambda side: side.circuit),
        row("faithfulness", lambda side: side.faithfulness),
        row("  random circuits", lambda side: side.random_faithfulness),
        row("  all edges outside", lambda side: side.completeness),
        row("Hit@10, whole model", hits("model")),
        row("Hit@10, circuit", hits("circuit")),
        row("Hit@10, random circuits", hits("random")),
    ]
    defined: list[Row] = [cells for cells in rows if set(cells[1:]) != {"undefined"}]
    return ("", *sides), defined


def sides_of(found: Discovery) -> dict[str, Evaluation]:
    """The evaluations of a discovery by the name of their pairs."""
    sides = {"pairs that found it": found.evaluation}
    return sides | ({"other subjects": found.held_out} if found.held_out is not None else {})


def edge_rows(circuit: Circuit, n: int = N_STRONGEST) -> tuple[Row, list[Row]]:
    """A table of the strongest edges."""
    records = strongest_edges(circuit, n)
    header = tuple(records[0]) if records else ("edge",)
    rows: list[Row] = [
        tuple(x if isinstance(x, str) else f"{x:.4g}" for x in record.values())
        for record in records
    ]
    return header, rows


def known_line(counts: Mapping[str, Any]) -> str:
    """How many of the facts the model knows, in one line."""
    if "lines" in counts:
        return f"{counts['known']} of {counts['lines']} pairs recalled by the model"
    text = f"{counts['known']} of {counts['facts']} facts known to the model"
    if counts["known"] is None:
        text = f"{counts['facts']} facts, not asked whether the model knows them"
    left_out = dict(counts["without_partner"])
    if counts["cannot_be_asked"]:
        left_out["cannot be asked"] = counts["cannot_be_asked"]
    return text + "".join(f"; {count} left out: {reason}" for reason, count in left_out.items())


def discovery_page(found: Discovery) -> str:
    """The summary as Markdown, with what the numbers mean."""
    circuit, search = found.circuit, found.search
    scoring = ", ".join(f"{name} {value}" for name, value in search.record().items())
    lines = [
        f"# The circuit of {found.examples.name} in {found.model}",
        "",
        f"{circuit.n_edges} of {circuit.wiring.n_edges} edges between {found.evaluation.n_nodes} "
        f"nodes; {circuit.wiring.describe()}. Found with {scoring}, seed {search.seed}.",
        f"{known_line(found.examples.counts)}. Answers count by their first token.",
        "",
        *markdown_table(*measure_rows(sides_of(found))),
        "",
        "In brackets: 95 % bootstrap intervals over pairs. Faithfulness is 0 with no edge kept and "
        "1 for the whole model; random circuits have as many edges, connected.",
        "",
        "## Strongest edges",
        "",
        *markdown_table(*edge_rows(circuit, 20)),
        "",
        "A score estimates what the metric loses when the edge is corrupted: positive supports the "
        "answer.",
    ]
    if found.stability:
        counted = ", ".join(f"{count} {label}" for label, count in found.stability.items())
        lines += [
            "",
            f"Of {search.resamples} resamples of the pairs, `inclusion` is the share whose circuit "
            f"keeps the edge: {counted} (core: at least 95 %, noise: below 50 %).",
        ]
    if found.curve is not None:
        lines += [
            "",
            f"CPR {found.curve.area}, CMD {found.curve.distance} over "
            f"{len(found.curve.sizes)} sizes.",
        ]
    if circuit.roles:
        lines += ["", "## Roles of heads", "", *(f"- {n}: {r}" for n, r in circuit.roles.items())]
    for note in found.notes:
        lines += ["", f"Note: {note}."]
    return "\n".join(lines) + "\n"


def markdown_table(header: Row, rows: Sequence[Row]) -> list[str]:
    """A table in Markdown; pipes in cells are escaped."""

    def line(cells: Row) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in rows)]
