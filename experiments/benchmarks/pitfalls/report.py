"""What both reports share: methods' rows beside their controls, and what the model knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.choices import EditStatus
from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Part
from experiments.analyses.engine.claims import Claim, average, difference, measured
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table, shown
from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT
from experiments.benchmarks.pitfalls.asking import EDIT, RANDOM, RANDOM_LAST
from experiments.benchmarks.pitfalls.multilabel import MEMIT_MLE

OVER = "cases"
FEW_KNOWN = 0.5
"""Below this share of true facts given, a lead says that the model does not know them."""
SIDES = {RANDOM: "both random", RANDOM_LAST: "second random"}
"""Sides of a unit that are controls, as rows of a table name them."""
CONTROL = (
    "The controls of each case are random changes with the norm and rank of each edit, at the same "
    "weights: in place of both, and in place of the second alone. `unedited` is the model as it "
    "is, every measure made of the same probabilities. An edit that diverged, or whose answer the "
    "model gave already, changes nothing and its case counts as it stands. `in-context` changes no "
    "weight: what the edits would write is stated before every prompt, one after the other.",
    "Intervals are 95 % bootstrap intervals over cases.",
)


def values(units: Sequence[Part], measure: str, side: str = EDIT) -> np.ndarray:
    """A measure case by case; NaN where a case lacks it."""
    return np.array([number(each["measures"].get(side, {}).get(measure)) for each in units])


def mean(units: Sequence[Part], measure: str, side: str = EDIT) -> Interval | None:
    """Its mean with a 95 % interval over cases; None where no case has it."""
    found = values(units, measure, side)
    return average(found) if np.isfinite(found).any() else None


def changes(method: str) -> bool:
    """Whether a method changes weights."""
    return method not in (NO_EDIT, IN_CONTEXT)


def method_name(method: str) -> str:
    """A method in words."""
    if method == NO_EDIT:
        return "unedited"
    return "MEMIT-MLE" if method == MEMIT_MLE else named(method)


def table(
    name: str,
    title: str,
    methods: Mapping[str, Sequence[Part]],
    columns: Mapping[str, str],
    percent: set[str],
    note: str = "",
) -> Table:
    """One row a method, and one of its control; `columns` are measures by heading.

    Columns that no row has a value in are left out.
    """
    rows: list[list[Any]] = []
    for method, units in methods.items():
        made = _made(units) if changes(method) else None
        for side in dict.fromkeys(side for each in units for side in each["measures"]):
            label = method_name(method) + (f", {SIDES[side]}" if side in SIDES else "")
            rows.append(
                [
                    label,
                    len(units),
                    made if side == EDIT else None,
                    *(mean(units, each, side) for each in columns.values()),
                ]
            )
    headings = ["change", OVER, "edits made", *columns]
    kept = [n for n in range(len(headings)) if any(row[n] is not None for row in rows)]
    return Table(
        name,
        tuple(headings[n] for n in kept),
        [[row[n] for n in kept] for row in rows],
        title=title,
        note=note,
        percent=percent & {headings[n] for n in kept},
    )


def _made(units: Sequence[Part]) -> str:
    statuses = [edit["status"] for each in units for edit in each["edits"]]
    return f"{statuses.count(EditStatus.DONE.value)} of {len(statuses)}"


def cases_table(name: str, methods: Mapping[str, Sequence[Part]], kind: str) -> Table:
    """Every edit of every case with its measures, as a file."""
    wanted = dict.fromkeys(
        measure for units in methods.values() for u in units for measure in u["measures"][EDIT]
    )
    rows = [
        [
            method,
            unit["case"],
            unit[kind],
            side,
            *("; ".join(str(edit[key]) for edit in unit["edits"]) for key in ("prompt", "target")),
            ", ".join(edit["status"] for edit in unit["edits"]),
            "; ".join(filter(None, (edit["reason"] for edit in unit["edits"]))),
            *(found.get(measure) for measure in wanted),
        ]
        for method, units in methods.items()
        for unit in units
        for side, found in unit["measures"].items()
    ]
    about = ("method", "case", kind, "side", "prompts", "targets", "outcomes", "reasons")
    return Table(name, (*about, *wanted), rows, stored_only=True)


def beyond_random(
    methods: Mapping[str, Sequence[Part]],
    measure: str,
    what: str,
    *,
    side: str = RANDOM,
    scale: float = 100.0,
    unit: str = "points",
) -> tuple[Claim, ...]:
    """The claim, of each method, that a measure is above that of a control.

    `what` continues the method's name and has its `[more|less]`.
    """
    claims = []
    for method, units in methods.items():
        edit, random = values(units, measure), values(units, measure, side)
        if method != NO_EDIT and (np.isfinite(edit) & np.isfinite(random)).any():
            claims.append(
                difference(
                    f"{method_name(method)}{what}", edit, random, scale=scale, unit=unit, over=OVER
                )
            )
    return tuple(claims)


def known(
    methods: Mapping[str, Sequence[Part]], words: str, found: Callable[[list[bool]], float]
) -> tuple[str, tuple[Claim, ...]]:
    """What the unedited model gives of the true facts: a clause for the lead, and the claim.

    `words` say so with `{}` for a percentage; `found` makes a case's share of what its true facts
    are given or not.
    """
    shares = [found(unit["gives"]) for unit in methods.get(NO_EDIT, ()) if unit.get("gives")]
    if not shares:
        return "whether the model knows the facts was not asked (method `none` does)", ()
    share = average(shares)
    text = words.format(percent(share.value))
    if share.value < FEW_KNOWN:
        text += ", so it does not know most of what is edited here"
    claim = measured(
        f"{words.format('this share')}:",
        Interval(100 * share.value, 100 * share.low, 100 * share.high),
        len(shares),
        unit="%",
        over=OVER,
    )
    return text, (claim,)


def percent(share: float) -> str:
    """`35 %`."""
    return f"{shown(100 * share, 0)} %" if math.isfinite(share) else "an unknown share"


def value(units: Sequence[Part], measure: str, side: str = EDIT) -> float:
    """A measure's mean as a number, NaN where no case has it."""
    found = mean(units, measure, side)
    return math.nan if found is None else found.value


def listed(texts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def sentence(clauses: Sequence[str]) -> str:
    """The clauses as one sentence."""
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."
