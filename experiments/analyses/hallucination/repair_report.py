"""What `hallucination` reports of transplants: what repairs a wrong answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from experiments.analyses.engine.base import Figure, Section
from experiments.analyses.engine.claims import Claim, average, difference
from experiments.analyses.engine.tables import Table
from experiments.analyses.hallucination.numbers import Rows, repaired_by_layer
from experiments.analyses.hallucination.repair import OTHER_LAST, OTHER_WRONG, SAME_SUBJECT
from viz.paper.charts import Bars, Lines

OVER = "relations"
SHOWN = 12


def reading_claim(rows: Rows) -> Claim:
    """That the question's state repairs, beside that of another wrongly worded question."""
    own, control = _early(rows, OTHER_LAST, OTHER_WRONG)
    return difference(
        "another subject's early state at the last token repairs [more|fewer] answers where that "
        "subject was asked about in the right wording than[ where it was asked about|] in the "
        "wrong one",
        own[0],
        control,
        scale=100,
        over=OVER,
        clusters=own[1],
    )


def subject_claim(rows: Rows) -> Claim:
    """That the question's state repairs more than the subject's."""
    own, control = _early(rows, OTHER_LAST, SAME_SUBJECT)
    return difference(
        "another subject's early state at the last token, in the right wording, repairs more "
        "answers than the fact's own state at the subject does at its best layer",
        own[0],
        control,
        opposite="the fact's own state at the subject repairs more answers than another subject's "
        "early state at the last token, in the right wording",
        scale=100,
        over=OVER,
        clusters=own[1],
    )


def _early(rows: Rows, kind: str, beside: str) -> tuple[tuple[np.ndarray, list[str]], np.ndarray]:
    """Repaired by case after the first half of the layers, where both kinds have a donor.

    The other kind is taken at the layer at which it repairs most, which favours it.
    """
    left, right = rows.states[kind], rows.states[beside]
    both = np.isfinite(left[:, 0]) & np.isfinite(right[:, 0])
    half = left.shape[1] // 2
    names = [name for name, kept in zip(rows.relations, both, strict=True) if kept]
    best = int(right[both].mean(0).argmax()) if both.any() else 0
    return (left[both, max(half - 1, 0)], names), right[both, best]


def repair_claims(rows: Rows) -> tuple[Claim, ...]:
    """What repairs, the most telling first."""
    claims = []
    for donor in rows.components:
        found = rows.components[donor]
        place = 0
        n = found.counts[place]
        verb = "repairs" if n == 1 else "repair"
        named = "the component blamed most" if n == 1 else f"the {n} components blamed most"
        told = "" if donor == "same fact" else ", taken from another subject's run,"
        for control in ("random", "matched"):
            count = "one" if n == 1 else "as many"
            claims.append(
                difference(
                    f"{named}{told} {verb} more answers than {count} {control} "
                    f"{'component' if n == 1 else 'components'}",
                    found.values["blamed"][place],
                    found.values[control][place],
                    scale=100,
                    over=OVER,
                    clusters=found.clusters,
                )
            )
    return (reading_claim(rows), *claims[:1], subject_claim(rows), *claims[1:])


def repair_section(rows: Rows, claims: Sequence[Claim]) -> Section:
    """Repairs by layer and by number of components."""
    every = {name: repaired_by_layer(rows, name) for name in rows.states}
    series = {name: found for name, found in every.items() if np.isfinite(found[0].value)}
    layers = len(next(iter(series.values())))
    state_chart = Lines(
        list(range(layers)),
        {"": series},
        "state after layer",
        ("share of wrong answers repaired",),
        muted=(OTHER_WRONG,),
        y_limits=(-0.03, 1.05),
    )
    figures = [
        Figure(
            "states",
            "Wrong answers repaired by one state of a run that is answered right, by layer: the "
            "same fact in the right wording, or another subject in that wording. Grey, as control: "
            "another subject in the wrong wording. 95 % intervals over relations.",
            state_chart.draw,
        )
    ]
    tables = [_state_table(series)]
    for donor, found in rows.components.items():
        bars = {
            name: [average(values, found.clusters) for values in found.values[name]]
            for name in ("blamed", "matched", "random")
        }
        chart = Bars(
            [f"{n} of {found.pool}" for n in found.counts],
            bars,
            "share of wrong answers repaired",
            muted=("random",),
            y_limits=(0.0, 1.05),
            width=4.8,
        )
        slug = donor.replace(" ", "_")
        figures.append(
            Figure(
                f"components_{slug}",
                f"Wrong answers repaired by what some heads and MLPs write at the last token of a "
                f"right run ({donor}): those blamed on the other half of the cases, matched ones "
                "of the same kinds and layers, and random ones. 95 % intervals over relations.",
                chart.draw,
            )
        )
        tables.append(_blame_table(donor, found))
    return Section("What repairs it", "", tuple(tables), tuple(claims), tuple(figures))


def _state_table(series: Mapping[str, Sequence[Interval]]) -> Table:
    body = [
        [layer, *(values[layer] for values in series.values())]
        for layer in range(len(next(iter(series.values()))))
    ]
    return Table(
        "states",
        ("after layer", *series),
        body,
        title="Wrong answers repaired by the residual stream of another run",
        note="The unpatched run repairs none by definition. 95 % intervals over relations.",
        percent=set(series),
        long=True,
    )


def _blame_table(donor: str, found: Any) -> Table:
    total = sum(found.names.values())
    body = [[name, count, count / total] for name, count in found.names.most_common(SHOWN)]
    return Table(
        f"blamed_{donor.replace(' ', '_')}",
        ("component", "times blamed", "share of all blame"),
        body,
        title=f"The components that are blamed most (donor: {donor})",
        note="Counted over relations, halves and numbers of components.",
        percent={"share of all blame"},
        long=True,
    )
