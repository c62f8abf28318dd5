"""What `edit-effects` reports of circuits: who says the new object, and which edits fail."""

from __future__ import annotations

from collections.abc import Sequence

from circuits.base.intervals import Interval
from experiments.analyses.edit_effects.measures import GROUPS
from experiments.analyses.edit_effects.numbers import (
    OVER,
    PLACES,
    Row,
    chosen,
    correlation,
    numbers,
    over_facts,
    separation,
    within,
)
from experiments.analyses.engine.base import Figure, Section
from experiments.analyses.engine.claims import Claim, average, claim, difference
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table
from viz.paper.charts import Bars


def writer_section(rows: Sequence[Row], methods: Sequence[str]) -> Section:
    """Which components say the new object, by method and layer."""
    usual = {method: chosen(rows, method, "usual") for method in methods}
    groups = [group for group in GROUPS if group != "embedding"]
    series = {
        named(method): [
            average(numbers(own, lambda row, group=group: row.swing(group)))  # type: ignore[misc]
            for group in groups
        ]
        for method, own in usual.items()
    }
    everything = [row for own in usual.values() for row in own]
    series["control edits"] = [
        average(
            numbers(everything, lambda row, group=group: row.swing(group, "control")),  # type: ignore[misc]
            [row.fact for row in everything],
        )
        for group in groups
    ]
    chart = Bars(
        groups,
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
    body = []
    for place in PLACES:
        for method in methods:
            own = chosen(rows, method, place)
            body.append(
                [
                    named(method),
                    place,
                    *(
                        average(numbers(own, lambda row, group=group: row.swing(group)))  # type: ignore[misc]
                        for group in groups
                    ),
                    average(numbers(own, lambda row: row.of("switched"))),
                    average(numbers(own, lambda row: row.of("switched", "control"))),
                ]
            )
    table = Table(
        "writers",
        ("method", "edited at", *groups, "mover heads that switch", "switch, control"),
        body,
        title="Who says the new object",
        note="In logits, from the old to the new object. Switch: spoke for the old object before "
        "and speak for the new one after, of the mover heads that spoke for the old one.",
        default_digits=1,
        percent=frozenset({"mover heads that switch", "switch, control"}),
        digits={"mover heads that switch": 0, "switch, control": 0},
    )
    return Section(
        "Who says the new object",
        "",
        (table,),
        mover_claims(rows, methods)[2:],
        (Figure("writers", caption, chart.draw),),
    )


def mover_claims(rows: Sequence[Row], methods: Sequence[str]) -> tuple[Claim, ...]:
    """What mover heads and the edited MLP say after edits."""
    usual = chosen(rows, place="usual")
    claims = [
        difference(
            "edits at the usual layer make more mover heads say the new object than random changes "
            "of their size do",
            numbers(usual, lambda row: row.of("switched")),
            numbers(usual, lambda row: row.of("switched", "control")),
            opposite="edits at the usual layer make fewer mover heads say the new object than "
            "random changes of their size do",
            unit="points of the mover heads",
            scale=100,
            over=OVER,
            clusters=[row.fact for row in usual],
        )
    ]
    if {"ft", "rome"} <= set(methods):
        tuned, located = (chosen(rows, method, "usual") for method in ("ft", "rome"))
        claims.append(
            difference(
                "FT-M makes the edited MLP itself say the new object, more than ROME does",
                numbers(tuned, lambda row: row.swing("edited MLP")),
                numbers(located, lambda row: row.swing("edited MLP")),
                opposite="ROME makes the edited MLP itself say the new object, more than FT-M does",
                unit="logits",
                over=OVER,
            )
        )
    for method in methods:
        own = chosen(rows, method, "usual")
        claims.append(
            difference(
                f"after {named(method)} at the usual layer, mover heads say more of the new object "
                "than the edited MLP itself",
                numbers(own, lambda row: row.swing("mover heads")),
                numbers(own, lambda row: row.swing("edited MLP")),
                opposite=f"after {named(method)} at the usual layer, the edited MLP itself says "
                "more of the new object than mover heads",
                unit="logits",
                over=OVER,
            )
        )
    return tuple(claims)


# --- the circuit ---------------------------------------------------------------------------------


def circuit_section(rows: Sequence[Row], methods: Sequence[str]) -> Section:
    """How the circuits before and after differ."""
    columns: tuple[str, ...] = ("method", "edited at", "edges in common", "nodes in common")
    columns += ("mass moved", "mass moved, control", "edges changed", "edges changed, control")
    body = []
    for method in methods:
        for place in PLACES:
            own = chosen(rows, method, place)
            body.append(
                [
                    named(method),
                    place,
                    average(numbers(own, lambda row: row.of("jaccard"))),
                    average(numbers(own, lambda row: row.of("node_jaccard"))),
                    average(numbers(own, lambda row: row.of("dissimilarity"))),
                    average(numbers(own, lambda row: row.of("dissimilarity", "control"))),
                    average(numbers(own, lambda row: row.of("changed"))),
                    average(numbers(own, lambda row: row.of("changed", "control"))),
                ]
            )
    table = Table(
        "circuits",
        columns,
        body,
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
    usual = chosen(rows, place="usual")
    return difference(
        "edits at the usual layer move more of the circuit's score mass than random changes of "
        "their size and keys",
        numbers(usual, lambda row: row.of("dissimilarity")),
        numbers(usual, lambda row: row.of("dissimilarity", "control")),
        opposite="edits at the usual layer move less of the circuit's score mass than random "
        "changes of their size and keys",
        unit="points of score mass",
        scale=100,
        over=OVER,
        clusters=[row.fact for row in usual],
    )


# --- does the circuit tell which edits fail ------------------------------------------------------


def prediction_claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Whether the edited layer's in-circuit score tells which edits succeed."""
    facts = len({row.fact for row in rows})
    area = over_facts(rows, _area)
    inside = over_facts(rows, lambda some: within(some, correlation))
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
            "within one layer and method, edits take better in facts whose circuit uses the layer "
            "more",
            inside,
            facts,
            opposite="within one layer and method, edits take worse in facts whose circuit uses "
            "the layer more",
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


def prediction_section(
    rows: Sequence[Row], methods: Sequence[str], claims: tuple[Claim, ...]
) -> Section:
    """The in-circuit score beside success, over layers and within one."""
    body = []
    for name, own in (("all", list(rows)), *((m, chosen(rows, m)) for m in methods)):
        body.append(
            [
                named(name),
                len(own),
                int(numbers(own, lambda row: row.success).sum()),
                over_facts(own, _area),
                over_facts(own, _correlation),
                over_facts(own, lambda some: within(some, correlation)),
            ]
        )
    body.append(body.pop(0))
    table = Table(
        "prediction",
        (
            "method",
            "edits",
            "succeed",
            "separation",
            "rank correlation",
            "rank correlation within a layer",
        ),
        body,
        title="In-circuit score of the edited layer, and success",
        note="Separation: of edits that succeed and fail; rank correlation: with the new object's "
        "probability. 95 % intervals over facts.",
        default_digits=2,
        totals=("all",),
    )
    by_layer = Table(
        "in_circuit",
        ("edited at", "layer", "in-circuit score", "succeed"),
        [
            [
                place,
                own[0].layer,
                average(numbers(own, lambda row: row.in_circuit), [row.fact for row in own]),
                average(numbers(own, lambda row: row.success), [row.fact for row in own]),
            ]
            for place in PLACES
            if (own := chosen(rows, place=place))
        ],
        title="By layer",
        percent=frozenset({"in-circuit score", "succeed"}),
    )
    text = (
        "The score can tell edits apart because layers differ, or because facts do; the rank "
        "correlation within a layer and method looks at facts alone."
    )
    return Section("Does the circuit tell which edits fail?", text, (by_layer, table), claims[1:])
