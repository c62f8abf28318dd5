"""What `edit-effects` reports of circuits: who says the new object, and which edits fail."""

from __future__ import annotations

from collections.abc import Sequence

from circuits.base.intervals import Interval
from experiments.analyses.edit_effects.measures import GROUPS
from experiments.analyses.edit_effects.numbers import (
    OVER,
    PLACES,
    WHERE,
    Row,
    cells,
    chosen,
    column,
    compared,
    correlation,
    effect,
    mean,
    numbers,
    over_facts,
    separation,
    swing,
    within,
)
from experiments.analyses.engine.base import Figure, Section
from experiments.analyses.engine.claims import Claim, average, claim, difference
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table
from viz.paper.charts import Bars

WRITERS = tuple(group for group in GROUPS if group != "embedding")


def writer_section(rows: Sequence[Row], methods: Sequence[str]) -> Section:
    """Which components say the new object, by method and layer."""
    usual = {method: chosen(rows, method, "usual") for method in methods}
    series = {
        named(method): [mean(own, swing(group)) for group in WRITERS]
        for method, own in usual.items()
    }
    everything = [row for own in usual.values() for row in own]
    facts = [row.fact for row in everything]
    series["control edits"] = [
        average(numbers(everything, swing(group, "control")), facts) for group in WRITERS
    ]
    chart = Bars(
        WRITERS,
        series,
        "logits from the old to the new object",
        muted=("control edits",),
        level=0.0,
        width=5.6,
    )
    caption = (
        "What kinds of components say the new object instead of the old one after an edit at the "
        "usual layer: change of their direct part in the logits, with 95 % intervals over facts. "
        "Grey: random changes of the same size and keys."
    )
    switches = {
        "mover heads that switch": column(effect("switched")),
        "switch, control": column(effect("switched", "control")),
    }
    table = Table.of(
        "writers",
        {(place, m): chosen(rows, m, place) for place in PLACES for m in methods},
        {
            "method": lambda cell, _: named(cell[1]),
            "edited at": lambda cell, _: cell[0],
            **{group: column(swing(group)) for group in WRITERS},
            **switches,
        },
        title="Who says the new object",
        note="In logits, from the old to the new object. Switch: spoke for the old object before "
        "and speak for the new one after, of the mover heads that spoke for the old one.",
        default_digits=1,
        percent=set(switches),
        digits=dict.fromkeys(switches, 0),
    )
    figure = Figure("writers", caption, chart.draw)
    return Section(
        "Who says the new object", "", (table,), mover_claims(rows, methods)[2:], (figure,)
    )


def mover_claims(rows: Sequence[Row], methods: Sequence[str]) -> tuple[Claim, ...]:
    """What mover heads and the edited MLP say after edits."""
    claims = [
        compared(
            "edits at the usual layer make [more|fewer] mover heads say the new object than "
            "random changes of their size do",
            chosen(rows, place="usual"),
            effect("switched"),
            effect("switched", "control"),
            unit="points of the mover heads",
            scale=100,
        )
    ]
    if {"ft", "rome"} <= set(methods):
        tuned, located = (chosen(rows, method, "usual") for method in ("ft", "rome"))
        claims.append(
            difference(
                "[FT-M|ROME] makes the edited MLP itself say the new object, more than "
                "[ROME|FT-M] does",
                numbers(tuned, swing("edited MLP")),
                numbers(located, swing("edited MLP")),
                unit="logits",
                over=OVER,
            )
        )
    for method in methods:
        claims.append(
            compared(
                f"after {named(method)} at the usual layer, [mover heads say more of the new "
                "object than the edited MLP itself|the edited MLP itself says more of the new "
                "object than mover heads]",
                chosen(rows, method, "usual"),
                swing("mover heads"),
                swing("edited MLP"),
                by_fact=False,
                unit="logits",
            )
        )
    return tuple(claims)


# --- the circuit ---------------------------------------------------------------------------------


def circuit_section(rows: Sequence[Row], methods: Sequence[str]) -> Section:
    """How the circuits before and after differ."""
    table = Table.of(
        "circuits",
        cells(rows, methods),
        {
            **WHERE,
            "edges in common": column(effect("jaccard")),
            "nodes in common": column(effect("node_jaccard")),
            "mass moved": column(effect("dissimilarity")),
            "mass moved, control": column(effect("dissimilarity", "control")),
            "edges changed": column(effect("changed")),
            "edges changed, control": column(effect("changed", "control")),
        },
        title="The circuit before and after",
        note="In common: Jaccard index of the selected circuits. Mass moved: share of the |score| "
        "of both sides; 0 for equal scores. Edges changed: called so at a false discovery rate of "
        "5 %.",
        default_digits=2,
        digits={"edges changed": 0, "edges changed, control": 0},
    )
    return Section("What the circuit becomes", "", (table,))


def control_claim(rows: Sequence[Row]) -> Claim:
    """That edits change more of the circuit than random changes of their size."""
    return compared(
        "edits at the usual layer move [more|less] of the circuit's score mass than random "
        "changes of their size and keys",
        chosen(rows, place="usual"),
        effect("dissimilarity"),
        effect("dissimilarity", "control"),
        unit="points of score mass",
        scale=100,
    )


# --- does the circuit tell which edits fail ------------------------------------------------------


def prediction_claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Whether the edited layer's in-circuit score tells which edits succeed."""
    facts = len({row.fact for row in rows})
    area = over_facts(rows, _area)
    return (
        claim(
            "the in-circuit score of the edited layer tells which edits succeed",
            Interval(area.value - 0.5, area.low - 0.5, area.high - 0.5),
            facts,
            opposite="edits succeed where the edited layer's in-circuit score is low",
            unit="",
            quantity="separation above chance (0.5)",
            over=OVER,
            counted=f"{len(rows)} edits of n = {facts} facts",
        ),
        claim(
            "within one layer and method, edits take [better|worse] in facts whose circuit uses "
            "the layer more",
            over_facts(rows, _within),
            facts,
            unit="",
            quantity="mean rank correlation of in-circuit score and p of the new object",
            over=OVER,
        ),
    )


def _area(rows: Sequence[Row]) -> float:
    return separation(
        numbers(rows, lambda row: row.in_circuit), numbers(rows, lambda row: row.success)
    )


def _correlation(rows: Sequence[Row]) -> float:
    return correlation(
        numbers(rows, lambda row: row.in_circuit), numbers(rows, lambda row: row.probability)
    )


def _within(rows: Sequence[Row]) -> float:
    return within(rows, correlation)


def prediction_section(
    rows: Sequence[Row], methods: Sequence[str], claims: tuple[Claim, ...]
) -> Section:
    """The in-circuit score beside success, over layers and within one."""
    table = Table.of(
        "prediction",
        {**{method: chosen(rows, method) for method in methods}, "all": list(rows)},
        {
            "method": lambda name, _: named(name),
            "edits": lambda _, own: len(own),
            "succeed": lambda _, own: int(numbers(own, lambda row: row.success).sum()),
            "separation": lambda _, own: over_facts(own, _area),
            "rank correlation": lambda _, own: over_facts(own, _correlation),
            "rank correlation within a layer": lambda _, own: over_facts(own, _within),
        },
        title="In-circuit score of the edited layer, and success",
        note="Separation: of edits that succeed and fail; rank correlation: with the new object's "
        "probability. 95 % intervals over facts.",
        default_digits=2,
        totals=("all",),
    )
    at_place = {place: own for place in PLACES if (own := chosen(rows, place=place))}
    by_layer = Table.of(
        "in_circuit",
        at_place,
        {
            "edited at": lambda place, _: place,
            "layer": lambda _, own: own[0].layer,
            "in-circuit score": lambda _, own: _by_fact(own, "in_circuit"),
            "succeed": lambda _, own: _by_fact(own, "success"),
        },
        title="By layer",
        percent={"in-circuit score", "succeed"},
    )
    text = (
        "The score can tell edits apart because layers differ, or because facts do; the rank "
        "correlation within a layer and method looks at facts alone."
    )
    return Section("Does the circuit tell which edits fail?", text, (by_layer, table), claims[1:])


def _by_fact(rows: Sequence[Row], name: str) -> Interval:
    values = numbers(rows, lambda row: getattr(row, name))
    return average(values, [row.fact for row in rows])
