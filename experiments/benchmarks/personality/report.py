"""The report of `personality`: editing success as published and as it holds, DD, and the texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.errors import NumericalError
from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.edit_study.stored import edits_made
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, average, difference
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table
from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT, by_method
from experiments.benchmarks.personality.measures import MIN_ENTROPY, coherent
from experiments.benchmarks.replies.changes import AFTER, RANDOM

BEFORE = "before"
SIDES = {BEFORE: "unedited", AFTER: "the edit", RANDOM: "random change"}
NOT_COMPUTED = "not computed"
OVER = "cases"
METHOD = (
    "Each case is edited alone on the unedited model: the topic's first question is answered with "
    "the target trait's first answer. Beside each edit stands a random change with its singular "
    "values at the same weights. The in-context baseline changes no weight: that question and "
    "answer stand before every prompt.",
    "ES = σ(l⁺ − l⁻) · min(1, exp(l⁺ − l⁺ before)); l⁺ and l⁻ are mean log-probabilities of the "
    "answer tokens of the target trait and of the others, after the edit. As published each token "
    "is read one place late, and of every answer as many last tokens count as the shortest has. "
    "On unseen answers: without the one that was edited in.",
    "DD is KL(before ‖ after) in nats, mean over the tokens of the answers on the next topic.",
    f"Texts are greedy. A pair of texts counts, as published, where both have at least "
    f"{MIN_ENTROPY:g} bits of n-gram entropy. Acc: the classifier names the target trait. TPEI: "
    "cross-entropy to the target trait before minus after, nats. PAE: the judge's score, 1 to 5, "
    "after minus before.",
    "Intervals are 95 % bootstrap intervals over cases.",
)


def report(parts: Mapping[str, Part]) -> Report:
    """The report; NumericalError where no case was computed."""
    methods = by_method(parts)
    if not methods:
        raise NumericalError("no case was computed")
    first = next(iter(parts.values()))
    sections = (
        Section("Editing success", "", (_success(methods),), _published_claims(methods)),
        Section("What is said", _judges(first), (_texts(methods), _said(methods))),
    )
    method = (*METHOD, f"Texts have at most {first['tokens']} tokens, and end with the line.")
    return Report(_lead(methods), sections, _claims(methods), method)


# --- values of cases ------------------------------------------------------------------------------


def _each(methods: Mapping[str, Sequence[Part]]) -> list[tuple[str, str, list[Part]]]:
    """Method and side, with the cases that have it."""
    found = []
    for method, parts in methods.items():
        for side in (BEFORE,) if method == NO_EDIT else (AFTER, RANDOM):
            own = [part for part in parts if side in part["sides"]]
            if own:
                found.append((method, side, own))
    return found


def _values(parts: Sequence[Part], side: str, name: str) -> np.ndarray:
    return np.array([number(part["sides"][side].get(name)) for part in parts])


def _counts(part: Part, side: str) -> bool:
    """Whether the pair of texts passes the published filter."""
    found = part["sides"]
    return coherent(found[BEFORE]["entropy"], found[side]["entropy"])


def _head(method: str, side: str, n: int) -> list[Any]:
    return [named(method), _side(method, side), n]


def _side(method: str, side: str) -> str:
    return "the example" if (method, side) == (IN_CONTEXT, AFTER) else SIDES[side]


# --- tables ---------------------------------------------------------------------------------------


def _success(methods: Mapping[str, Sequence[Part]]) -> Table:
    columns = {
        "ES": "es",
        "ES on unseen answers": "es_unseen",
        "ES as published": "es_published",
        "l⁺, nats": "target",
        "l⁻, nats": "others",
        "DD, nats": "dd",
    }
    rows = []
    for method, side, parts in _each(methods):
        cells: list[Any] = [average(_values(parts, side, name)) for name in columns.values()]
        if side == BEFORE:
            cells[-1] = None
        norms = [part["edit"]["norm"] for part in parts if part["edit"]["norm"]]
        is_edit = side == AFTER and method != IN_CONTEXT
        made = edits_made(len(norms), len(parts)) if is_edit else None
        norm = float(np.mean(norms)) if norms else None
        rows.append([*_head(method, side, len(parts)), made, *cells, norm])
    return Table(
        "success",
        ("method", "model with", "cases", "edits made", *columns, "norm of change"),
        rows,
        title="Editing success (0 to 1) and what becomes of the next topic",
        note="The unedited model's ES is σ(l⁺ − l⁻): what an edit starts from. An edit that was "
        "not made counts as the unedited model; a random change stands beside those that were.",
    )


def _texts(methods: Mapping[str, Sequence[Part]]) -> Table:
    measures: dict[str, Callable[[Mapping[str, Any], str], float]] = {
        "Acc": lambda sides, side: number(sides[side].get("hit")),
        "TPEI": lambda sides, side: number(sides[BEFORE].get("ce")) - number(sides[side].get("ce")),
        "PAE": lambda sides, side: (
            number(sides[side].get("score")) - number(sides[BEFORE].get("score"))
        ),
    }
    computed = {
        name: any(
            np.isfinite(read(part["sides"], side))
            for parts in methods.values()
            for part in parts
            for side in part["sides"]
        )
        for name, read in measures.items()
    }
    columns = [
        f"{name}{which}"
        for name, known in computed.items()
        for which in ((", all texts", ", that count") if known else ("",))
    ]
    rows = []
    for method, side, parts in _each(methods):
        counted = [part for part in parts if _counts(part, side)]
        cells: list[Any] = []
        for name, read in measures.items():
            if computed[name]:
                cells += [
                    average([read(p["sides"], side) for p in own]) for own in (parts, counted)
                ]
            else:
                cells.append(NOT_COMPUTED)
        entropy = average(_values(parts, side, "entropy"))
        rows.append([*_head(method, side, len(parts)), entropy, len(counted), *cells])
    return Table(
        "texts",
        ("method", "model with", "cases", "entropy, bits", "texts that count", *columns),
        rows,
        title="The text on the topic",
        note=f"A text counts where it and the unedited model's have {MIN_ENTROPY:g} bits or more; "
        "a dash: none does.",
    )


def _said(methods: Mapping[str, Sequence[Part]]) -> Table:
    rows = [
        [method, part["case"], part["topic"], part["target"], _side(method, side), found["text"]]
        for method, parts in methods.items()
        for part in parts
        for side, found in part["sides"].items()
        if method != NO_EDIT or side == BEFORE
    ]
    columns = ("method", "case", "topic", "target", "model with", "text")
    return Table("said", columns, rows, title="All texts", long=True)


# --- words ----------------------------------------------------------------------------------------


def _judges(first: Part) -> str:
    classifier, judge = first["classifier"], first["judge"]
    return " ".join(
        (
            f"Traits are told by `{classifier}`."
            if classifier
            else "No trait classifier was named, so that Acc and TPEI are not computed.",
            f"Texts are judged by `{judge}`."
            if judge
            else "No judge was named, so that PAE is not computed.",
        )
    )


def _lead(methods: Mapping[str, Sequence[Part]]) -> str:
    def say(estimate: Interval) -> str:
        return f"{estimate.value:.2f}" if np.isfinite(estimate.value) else "undefined"

    by_case = {part["case"]: part for parts in methods.values() for part in parts}
    start, unseen_start = (
        say(average(_values(list(by_case.values()), BEFORE, name))) for name in ("es", "es_unseen")
    )
    texts = []
    for method, parts in methods.items():
        if method == NO_EDIT:
            continue
        text = f"with {named(method)} {say(average(_values(parts, AFTER, 'es')))}"
        unseen = say(average(_values(parts, AFTER, "es_unseen")))
        text += f" (on answers that were not edited in {unseen}"
        text += f", as published {say(average(_values(parts, AFTER, 'es_published')))}"
        beside = [part for part in parts if RANDOM in part["sides"]]
        if beside:
            # Where no edit was made, the random change beside it is none either.
            control = [
                {**part, "sides": {RANDOM: part["sides"][BEFORE], **part["sides"]}}
                for part in parts
            ]
            text += f", a random change {say(average(_values(control, RANDOM, 'es')))}"
        texts.append(f"{text})")
    first = f"Editing success is {start} before any edit"
    first += f" (on answers that are not edited in {unseen_start})"
    return "; ".join((first, *texts)) + "."


def _claims(methods: Mapping[str, Sequence[Part]]) -> tuple[Claim, ...]:
    """What an edit does that neither no edit nor a random change does."""
    claims = []
    for method, parts in methods.items():
        beside = [part for part in parts if RANDOM in part["sides"]]
        for name, what in (
            ("es", "raises editing success [more|less] than a random change of its size"),
            ("dd", "changes [more|less] of the next topic than a random change of its size"),
        ):
            if beside:
                claims.append(
                    _difference(named(method), what, beside, (AFTER, name), (RANDOM, name))
                )
        if method != NO_EDIT:
            what = "makes answers of the target trait that it was not shown [likelier|less likely]"
            pair = (AFTER, "es_unseen"), (BEFORE, "es_unseen")
            claims.append(_difference(named(method), f"{what}, by editing success", parts, *pair))
    return tuple(claims)


def _published_claims(methods: Mapping[str, Sequence[Part]]) -> tuple[Claim, ...]:
    return tuple(
        _difference(
            f"editing success by {named(method)} as published",
            "is [higher|lower] than as it holds",
            parts,
            (AFTER, "es_published"),
            (AFTER, "es"),
        )
        for method, parts in methods.items()
        if method != NO_EDIT
    )


def _difference(
    who: str, what: str, parts: Sequence[Part], a: tuple[str, str], b: tuple[str, str]
) -> Claim:
    values = (_values(parts, *each) for each in (a, b))
    unit = "nats" if a[1] == "dd" else ""
    return difference(f"{who} {what}", *values, unit=unit, over=OVER)
