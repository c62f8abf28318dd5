"""One edit as stored, and a method's edits gathered again: what the report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from circuits.base.choices import Control, EditStatus
from circuits.base.plain import number
from circuits.edits.edit import EditRequest
from circuits.edits.judge.measures import SCORINGS, Measure, Rates, mean_known, mean_rates
from circuits.edits.judge.success import RequestScore
from circuits.edits.judge.table import summarise
from experiments.analyses.engine.base import Part
from locate.changes.rewiring_summary import Quantity, summarise_quantities

SIDES = ("before", "after", "by_category")
PAIRED = ("probability", "fluency", "entropy_to_end")
EDITED = "edit"


def by_method(parts: Mapping[str, Part]) -> dict[str, dict[str, Any]]:
    """What each method did over its edits.

    An edit that was not made leaves the model as it is, and is judged so; perplexity and sizes are
    of those that were made.
    """
    groups: dict[str, list[Part]] = {}
    for part in parts.values():
        groups.setdefault(part["method"], []).append(part)
    return {method: _gathered(edits) for method, edits in groups.items()}


def edits_made(made: int, asked: int) -> str:
    """How many of the edits that were asked for came about, for a column of every table of rates.

    The others count there as the unedited model (`locate.edit.EditRun`).
    """
    return f"{made} of {asked}"


def _gathered(edits: Sequence[Part]) -> dict[str, Any]:
    states = [each["record"]["status"] for each in edits]
    made = [each for each in edits if each["record"]["status"] == str(EditStatus.DONE)]
    table = summarise(
        [as_score(each["score"]) for each in edits],
        [number(each["drift"]) for each in made],
        [each["growth"] for each in made],
    )
    return {
        "made": edits_made(len(made), len(edits)),
        "status": {str(s): states.count(s) for s in EditStatus if s in states},
        "success": table.as_dict(),
        "requests": [each["record"] for each in edits],
        "seconds_an_edit": sum(each["seconds"] for each in edits) / len(edits),
        "rewiring": _rewiring([each["rewiring"] for each in edits if each["rewiring"]]),
    }


def _rewiring(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    compared = [each for each in found if each.get(EDITED)]
    if not compared:
        return None
    edits = [_quantities(each[EDITED]) for each in compared]
    beside = {kind: [_quantities(each[kind.value]) for each in compared] for kind in Control}
    return {
        "n": len(edits),
        "left_out": [each["left_out"] for each in found if not each.get(EDITED)],
        "edit": {
            str(kind): summarise_quantities(edits, rows).rows() for kind, rows in beside.items()
        },
        "control": {str(kind): summarise_quantities(rows).rows() for kind, rows in beside.items()},
    }


# --- plain values --------------------------------------------------------------------------------


def score_values(score: RequestScore) -> dict[str, Any]:
    """A score without its request."""
    sides = {
        side: {str(measure): vars(rates) for measure, rates in getattr(score, side).items()}
        for side in SIDES
    }
    return {
        **sides,
        **{name: list(getattr(score, name)) for name in PAIRED},
        "magnitude": {str(measure): value for measure, value in score.magnitude.items()},
        "reply": score.reply,
    }


def as_score(stored: Mapping[str, Any]) -> RequestScore:
    """The inverse of `score_values`; its request is empty."""

    def rates(side: str) -> dict[Measure, Rates]:
        return {
            Measure(name): Rates(*(number(values[scoring]) for scoring in SCORINGS))
            for name, values in stored[side].items()
        }

    def pair(name: str) -> tuple[float, float]:
        before, after = stored[name]
        return number(before), number(after)

    return RequestScore(
        request=EditRequest("{}", "–", "–"),
        before=rates("before"),
        after=rates("after"),
        probability=pair("probability"),
        reply=tuple(stored["reply"]),
        fluency=pair("fluency"),
        entropy_to_end=pair("entropy_to_end"),
        by_category=rates("by_category"),
        magnitude={Measure(name): number(value) for name, value in stored["magnitude"].items()},
    )


def mean_score(scores: Sequence[RequestScore]) -> RequestScore:
    """The requests of one case as one: means of what each has, with the first one's reply.

    Requests that are made together are no observations of their own.
    """
    if len(scores) == 1:
        return scores[0]

    def rates(side: str) -> dict[Measure, Rates]:
        found = [getattr(score, side) for score in scores]
        return {
            measure: mean_rates([each[measure] for each in found if measure in each])
            for measure in Measure
            if any(measure in each for each in found)
        }

    def pair(name: str) -> tuple[float, float]:
        before, after = (mean_known(getattr(score, name)[i] for score in scores) for i in (0, 1))
        return before, after

    sizes = [score.magnitude for score in scores]
    means: dict[str, Any] = {side: rates(side) for side in SIDES}
    means |= {name: pair(name) for name in PAIRED}
    means["magnitude"] = {
        measure: mean_known(each.get(measure, np.nan) for each in sizes)
        for measure in Measure
        if any(measure in each for each in sizes)
    }
    return replace(scores[0], **means)


def mean_values(scores: Sequence[RequestScore]) -> dict[str, Any]:
    """The rates and magnitudes of several requests as plain means by name, for a table."""
    found = score_values(mean_score(scores))
    return {name: found[name] for name in (*SIDES, "magnitude")}


def quantity_rows(values: Mapping[Quantity, float]) -> list[list[Any]]:
    """Family, group, name and value, a row each."""
    return [[*quantity, value] for quantity, value in values.items()]


def _quantities(rows: Sequence[Sequence[Any]]) -> dict[Quantity, float]:
    return {Quantity(*names): number(value) for *names, value in rows}
