"""The report of `edit-effects`: tables, sentences and figures from the stored parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from experiments.analyses.edit_effects.circuit_report import (
    circuit_section,
    control_claim,
    mover_claims,
    prediction_claims,
    prediction_section,
    writer_section,
)
from experiments.analyses.edit_effects.numbers import (
    PLACES,
    Row,
    before,
    cells,
    chosen,
    column,
    compared,
    numbers,
    rate,
    rows_of,
)
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.by_layer import curve, powers_of_ten
from experiments.analyses.engine.claims import Claim, share
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table
from viz.paper.charts import Bars, Lines

METHOD = (
    "Each edit gives a subject that the model knows another object of its relation, at one layer "
    "and on the unedited model. An edit succeeds where the new object's first token comes out on "
    "top in its own prompt. Paraphrases are the relation's other wordings; neighbours other "
    "subjects in the edit's wording, half of them with the same true object where there are so "
    "many. The usual layer is ROME's.",
    "Circuits are compared on pairs of the edit's prompt and other subjects in the same words; "
    "edges are scored by EAP-IG for the old object's logit over the new one's, before and after, "
    "and held against the choice of the other subjects (Benjamini-Hochberg over edges). What a "
    "component says is its direct part in the same difference at the last token, on these same "
    "pairs; the edited fact has no others. Mover heads are "
    "those of the relation in the unedited model.",
    "The control of every edit is a random change of the same size, triggered by the same inputs, "
    "that writes something random.",
    "The in-circuit score of a layer is its MLP's share of the |score| on all edges that leave a "
    "node, in the unedited model. Separation is the area under the ROC curve: how often an edit "
    "that succeeds has the higher score than one that fails; 0.5 is chance.",
    "Intervals are 95 % bootstrap intervals over facts, each with all its edits. Few facts are "
    "edited by default, as every method runs at three layers: the option facts=30 takes more.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    rows = rows_of(parts)
    methods = list(dict.fromkeys(row.method for row in rows))
    layers = {place: next(row.layer for row in chosen(rows, place=place)) for place in PLACES}
    predicting = prediction_claims(rows)
    answer = (*mover_claims(rows, methods)[:2], control_claim(rows), predicting[0])
    sections = (
        _success_section(rows, methods, layers),
        _layer_section(parts, rows, methods, layers),
        writer_section(rows, methods),
        circuit_section(rows, methods),
        prediction_section(rows, methods, predicting),
    )
    return Report(_lead(rows, methods, layers), sections, answer, METHOD)


def _lead(rows: Sequence[Row], methods: Sequence[str], layers: Mapping[str, int]) -> str:
    texts = []
    for place in PLACES:
        rate = 100 * numbers(chosen(rows, place=place), lambda row: row.success).mean()
        texts.append(f"{rate:.0f} % at the {place} layer ({layers[place]})")
    facts = len({row.fact for row in rows})
    usual = chosen(rows, place="usual")
    lost = numbers(usual, lambda row: row.before("same subject", "old"))
    kept = numbers(usual, lambda row: row.rate("same subject", "old"))
    text = (
        f"Of {len(rows)} edits of {facts} facts by {', '.join(map(named, methods))}, "
        f"{', '.join(texts)} succeed."
    )
    if np.isfinite(kept).any():
        text += (
            f" At the usual layer, {100 * np.nanmean(lost - kept):.0f} points of the subject's "
            "other relations are lost with the edit."
        )
    return text


# --- success and leakage -------------------------------------------------------------------------


def _success_section(
    rows: Sequence[Row], methods: Sequence[str], layers: Mapping[str, int]
) -> Section:
    columns = {
        "succeeds": lambda _, own: share(numbers(own, lambda row: row.success) > 0),
        "p of new object": column(lambda row: row.probability),
        "paraphrases": column(rate("paraphrase", "new")),
        "neighbours kept": column(rate("neighbour", "kept")),
        "neighbours say new": column(rate("neighbour", "new")),
        "other relations kept": column(rate("same subject", "kept")),
    }
    table = Table.of(
        "success",
        cells(rows, methods),
        {
            "method": lambda cell, _: named(cell[0]),
            "layer": lambda cell, _: f"{cell[1]} ({layers[cell[1]]})",
            **columns,
        },
        title="Success, and what else changes",
        note=f"Mean over {len({row.fact for row in rows})} facts with 95 % intervals (Wilson's for "
        "success, bootstrap for the rest). Kept: right after the edit, of those right before.",
        percent=set(columns),
        digits=dict.fromkeys(columns, 0),
    )
    chart = Bars(
        [named(method) for method in methods],
        {
            f"{place} layer ({layers[place]})": [
                share(numbers(chosen(rows, method, place), lambda row: row.success) > 0)
                for method in methods
            ]
            for place in PLACES
        },
        "edits that succeed",
        y_limits=(0.0, 1.05),
        width=4.8,
    )
    caption = "Share of edits that succeed, by method and layer, with 95 % Wilson intervals."
    return Section(
        "Which edits succeed, and what they take along",
        "",
        (table,),
        _leak_claims(rows),
        (Figure("success", caption, chart.draw),),
    )


def _leak_claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    done = [row for row in rows if row.success > 0.5]
    if not done:
        return ()
    return (
        compared(
            "edits that succeed make the new object [likelier|less likely] for other subjects"
            "[ of the relation|]",
            done,
            rate("neighbour", "p_new"),
            before("neighbour", "p_new"),
            unit="points of probability",
            scale=100,
        ),
        compared(
            "edits that succeed [lose|gain] answers about the subject's other relations",
            done,
            before("same subject", "old"),
            rate("same subject", "old"),
            scale=100,
        ),
    )


# --- layer by layer ------------------------------------------------------------------------------


def _layer_section(
    parts: Mapping[str, Part],
    rows: Sequence[Row],
    methods: Sequence[str],
    layers: Mapping[str, int],
) -> Section:
    panels: dict[str, dict[str, list[Interval]]] = {}
    unedited = {label: _unedited(parts, label) for label in ("old", "new")}
    for place in PLACES:
        title = f"edited at layer {layers[place]} ({place})"
        panels[title] = {"new object, unedited": unedited["new"]}
        for method in methods:
            own = [row for row in chosen(rows, method, place) if row.effect is not None]
            if own:
                panels[title][f"new object, {named(method)}"] = _ranks(own)
    n_states = len(unedited["new"])
    chart = Lines(
        list(range(-1, n_states - 1)),
        panels,
        "after layer (−1: embedding)",
        ("rank of the new object (1 = top)",),
        muted=("new object, unedited",),
        logarithmic=tuple(panels),
        flipped=tuple(panels),
        y_limits=(None, None),
    )
    caption = (
        "Rank of the new object at the last token by layer, before and after edits at three "
        "layers. Geometric mean over facts with 95 % intervals."
    )
    body: list[list[Any]] = [
        ["unedited", f"{label} object", *(each.value for each in ranks)]
        for label, ranks in unedited.items()
    ]
    for (method, place), own in cells(rows, methods).items():
        if done := [row for row in own if row.effect]:
            body.append([named(method), place, *(float(each.value) for each in _ranks(done))])
    names = ["embedding", *(f"layer {layer}" for layer in range(n_states - 1))]
    table = Table(
        "ranks",
        ("method", "edited at", *names),
        body,
        title="Rank of the new object by layer after the edit",
        note="Geometric mean over facts; rank 1 is the top.",
        default_digits=1,
        long=True,
    )
    return Section(
        "Where the new object comes up", "", (table,), (), (Figure("ranks", caption, chart.draw),)
    )


def _ranks(rows: Sequence[Row]) -> list[Interval]:
    values = np.array(
        [row.effect["lens"]["new"]["rank"] for row in rows if row.effect is not None], dtype=float
    )
    return powers_of_ten(curve(np.log10(values + 1.0), [row.fact for row in rows]))


def _unedited(parts: Mapping[str, Part], label: str) -> list[Interval]:
    values = np.array([part["unedited"]["lens"][label]["rank"] for part in parts.values()])
    return powers_of_ten(curve(np.log10(values + 1.0), list(parts)))
