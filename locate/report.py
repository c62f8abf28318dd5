"""Measures and edges as tables to read and as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.choices import Meaning
from circuits.base.intervals import Interval
from circuits.graph.by_span import opposed_edges, span_rows
from circuits.graph.circuit import Circuit, as_cell

if TYPE_CHECKING:
    from circuits.graph.curve import FaithfulnessCurve
    from circuits.graph.evaluate import Evaluation

Row = Sequence[str]
N_STRONGEST = 10
N_LOOKED_AT = 200
"""Edges among which those with both signs are sought."""
MEASURES = (
    *("clean", "corrupted", "circuit"),
    *("faithfulness", "completeness", "random_faithfulness"),
)


SMALL_DROP = 0.001
"""Faithfulness that an edge is needed for, at least, or stands in the way of."""


class Worth(StrEnum):
    """What a circuit does without an edge.

    NEEDED: it loses `SMALL_DROP` or more, by the whole interval. HARMFUL: it gains as much. IDLE:
    it does neither. Else UNDECIDED. Where there is no interval the value itself decides.
    """

    NEEDED = "needed"
    IDLE = "idle"
    HARMFUL = "harmful"
    UNDECIDED = "cannot tell"


def worth_of(drop: Interval) -> Worth:
    """What the drop in faithfulness says of its edge."""
    known = np.isfinite(drop.low)
    low, high = (drop.low, drop.high) if known else (drop.value, drop.value)
    if low >= SMALL_DROP:
        return Worth.NEEDED
    if high <= -SMALL_DROP:
        return Worth.HARMFUL
    return Worth.IDLE if low > -SMALL_DROP and high < SMALL_DROP else Worth.UNDECIDED


def number(value: float) -> float | None:
    """For JSON: null where a number is undefined."""
    return float(value) if np.isfinite(value) else None


def measures(evaluation: Evaluation) -> dict[str, Any]:
    """Means of the measures, and under `intervals` the same with their 95 % intervals."""
    return {
        "pairs": evaluation.n_pairs,
        **{name: number(getattr(evaluation, name).value) for name in MEASURES},
        "hit_at_10": {name: number(rate.value) for name, rate in evaluation.hit_at_10.items()},
        "intervals": evaluation.as_dict(),
    }


def minimality(circuit: Circuit, drops: Sequence[Interval]) -> dict[str, Any]:
    """What faithfulness loses without each single kept edge, largest loss first.

    Counts of edges by `Worth`, whose margin is `below`.
    """
    kept = list(circuit.edges())
    order = np.argsort([-drop.value for drop in drops], kind="stable")
    worths = [worth_of(drop) for drop in drops]
    counts = {each.name.lower(): worths.count(each) for each in Worth}
    return {
        **counts,
        "below": SMALL_DROP,
        "edges": [
            {
                "edge": circuit.wiring.edge_name(kept[i]),
                "drop": number(drops[i].value),
                "low": number(drops[i].low),
                "high": number(drops[i].high),
                "worth": str(worths[i]),
            }
            for i in order
        ],
    }


def curve_summary(curve: FaithfulnessCurve) -> dict[str, Any]:
    """A faithfulness curve with its areas: CPR or CMD by its ranking, and the integrals as such."""
    areas = {name: area.as_dict() for name, area in curve.areas.items()}
    return {
        "edges": list(curve.sizes),
        "fraction": list(curve.fractions),
        "faithfulness": [point.as_dict() for point in curve.faithfulness],
        "ranking": None if curve.ranking is None else str(curve.ranking),
        "cpr": areas.get("CPR"),
        "cmd": areas.get("CMD"),
        "area": curve.area.as_dict(),
        "distance": curve.distance.as_dict(),
    }


def over_what(sides: Mapping[str, Evaluation]) -> str:
    """What the sides' intervals are over, in words."""
    return " and ".join(dict.fromkeys(side.over for side in sides.values()))


def measure_rows(sides: Mapping[str, Evaluation]) -> tuple[Row, list[Row]]:
    """A table of measures, one column a side."""

    def row(label: str, read: Any) -> Row:
        return (label, *(str(read(side)) for side in sides.values()))

    def hits(name: str) -> Any:
        return lambda side: side.hit_at_10.get(name, Interval(np.nan, np.nan, np.nan))

    grouped = any(side.n_drawn < side.n_pairs for side in sides.values())
    rows: list[Row] = [
        row("pairs", lambda side: side.n_pairs),
        *([row("  intervals over", lambda side: side.over)] if grouped else []),
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


def measure_records(sides: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """One record a measure and side: value and 95 % interval, None where undefined."""
    return [
        {"pairs": side, "measure": name, **each}
        for side, evaluation in sides.items()
        for name, each in _intervals(evaluation).items()
    ]


def _intervals(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    found = {name: getattr(evaluation, name).as_dict() for name in MEASURES}
    hits = {f"hit_at_10_{name}": rate.as_dict() for name, rate in evaluation.hit_at_10.items()}
    return found | hits


def span_table(circuit: Circuit) -> tuple[Row, list[Row]]:
    """A table of the spans that a circuit tells apart; no rows where it tells none."""
    rows = span_rows(circuit)
    header = tuple(rows[0]) if rows else ()
    return header, [
        tuple(as_cell(str(v) if type(v) is int else v) for v in row.values()) for row in rows
    ]


def opposed_line(circuit: Circuit) -> str:
    """How many of the strongest edges support at one place and oppose at another; or nothing."""
    if circuit.scores is None or not circuit.wiring.spans or circuit.meaning == Meaning.SIZE:
        return ""
    n = min(N_LOOKED_AT, circuit.scores.blind().wiring.n_edges)
    found = opposed_edges(circuit.scores, n)
    text = f"{len(found)} of the {n} strongest edges have both signs, in different spans"
    if not found:
        return text
    first = found[0]
    parts = ", ".join(f"{name} {value:+.3g}" for name, value in first.scores.items())
    return f"{text}; the strongest of them is {first.edge} ({parts}; together {first.whole:+.3g})"


def edge_rows(circuit: Circuit, n: int = N_STRONGEST) -> tuple[Row, list[Row]]:
    """A table of the strongest edges."""
    records = circuit.rows(n)
    header = tuple(records[0]) if records else ("edge",)
    return header, [tuple(map(as_cell, record.values())) for record in records]


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
    if left := counts.get("not_asked"):
        text += f" ({left} more were not needed)"
    return text + "".join(f"; {count} left out: {reason}" for reason, count in left_out.items())


def markdown_table(header: Row, rows: Sequence[Row]) -> list[str]:
    """A table in Markdown; pipes in cells are escaped."""

    def line(cells: Row) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in rows)]
