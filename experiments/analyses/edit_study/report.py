"""The report of `edit-study`: success, cost and rewiring by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.errors import NumericalError
from circuits.base.intervals import UNDEFINED, Interval
from circuits.base.plain import interval, number
from circuits.edits.judge.measures import Measure
from experiments.analyses.edit_study.stored import by_method
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, claim, difference
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table

SHOWN = (
    Measure.EFFICACY,
    Measure.PARAPHRASE,
    Measure.HELD_OUT,
    Measure.PORTABILITY,
    Measure.LOCALITY,
    Measure.NEIGHBOURS,
    Measure.SAME_SUBJECT,
)
"""Columns of the tables of success."""
SCORINGS = {
    "tokens": "Teacher-forced: share of the answer's tokens that are the argmax",
    "generation": "Free generation: the greedy text begins with the answer",
    "likelihood": "Likelihood: the wanted answer is likelier than its rival",
}
WHOLE = {
    "changed": "edges called changed",
    "jaccard": "Jaccard of the circuits",
    "switched": "heads switched to the new object",
    "recovered": "undone by old values on the changed edges",
    "random_recovered": "on as many random edges",
}
"""Numbers of the whole circuit, and what readers call them."""
BY_GROUP = (
    ("layer", "moved_share", "share of score mass moved, by the layer that writes"),
    ("role", "moved_share", "share of score mass moved, by the kind of node that writes"),
    ("layer", "changed", "edges called changed, by the layer that writes"),
    ("layer", "written_share", "share of the direct swing to the new object, by layer"),
)
CONTROLS = {
    "random": "random changes of their size",
    "same-keys": "changes of their size and keys that write something random",
}
OVER = "requests"
METHOD = (
    "Each edit gives a subject of the atlas another object of its relation, alone on the unedited "
    "model; every method gets the same requests. Efficacy is the edited prompt; paraphrases are "
    "the relation's other training wordings, held-out ones its wordings that no model here saw. "
    "Locality is all that should stay as before: neighbours, which are other subjects of the "
    "relation, those with the same object first, and the subject's other relations. An edit that "
    "was not made, as it diverged or its answer was said already, counts as the unedited model; "
    "perplexity and |dW|/|W| are of the edits that were made.",
    "Fluency is the n-gram entropy of a sampled text, perplexity is that on sentences of the "
    "atlas, after over before.",
    "Rewiring compares the circuit of the edited fact before and after, beside two control edits "
    "with the same singular values at the same weights: `random` turns the singular vectors "
    "anywhere in space, `same-keys` keeps the edit's inputs and writes something random. What old "
    "values on the changed edges undo is measured on the pairs that found these edges.",
    "Intervals are 95 % bootstrap intervals over requests.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text. NumericalError where there is no edit to tell of."""
    methods = by_method(parts)
    if not methods:
        raise NumericalError("there is no edit to report")
    sections = [_success_section(config, methods), _cost_section(methods)]
    rewired = {method: part["rewiring"] for method, part in methods.items() if part["rewiring"]}
    answer = _leak_claims(methods)
    if rewired:
        sections += [_whole_section(rewired), _group_section(rewired)]
        answer += _rewiring_claims(
            rewired, "switched", "heads", "switch more heads to the new object"
        )
    return Report(_lead(config, methods), tuple(sections), answer, METHOD)


def _lead(config: Any, parts: Mapping[str, Part]) -> str:
    texts = []
    for method, part in parts.items():
        rates = part["success"]["after"]
        said = [
            f"{100 * interval(rates[name]['tokens']).value:.0f} % of {words}"
            for name, words in (
                (Measure.EFFICACY, "the edited answers"),
                (Measure.NEIGHBOURS, "what neighbours said"),
                (Measure.SAME_SUBJECT, "the subject's other answers"),
            )
            if name in rates
        ]
        texts.append(f"{named(method)} ({part['made']} made) leaves {', '.join(said)}")
    return f"Of {config.edits} edits, {'; '.join(texts)}."


def _success_section(config: Any, parts: Mapping[str, Part]) -> Section:
    columns = tuple(map(str, SHOWN))
    tables = [
        Table(
            f"success_{scoring}",
            ("method", "edits made", *columns),
            [
                [
                    named(m),
                    part["made"],
                    *(_rate(part["success"]["after"], name, scoring) for name in SHOWN),
                ]
                for m, part in parts.items()
            ],
            title=title,
            percent=set(columns),
        )
        for scoring, title in SCORINGS.items()
    ]
    details = ("status", "probability_before", "probability_after", "norm", "seconds", "says")
    about = ("relation", "prompt", "target", "ground_truth", *details)
    requests = Table(
        "requests",
        ("method", *about, *columns),
        [
            [method, *(each[name] for name in about), *(each["tokens"].get(c) for c in columns)]
            for method, part in parts.items()
            for each in part["requests"]
        ],
        stored_only=True,
    )
    title = f"{config.edits} random counterfactual edits a method"
    return Section(title, "", (*tables, requests), _leak_claims(parts))


def _leak_claims(parts: Mapping[str, Part]) -> tuple[Claim, ...]:
    """Where an edit leaks: to the subject's other facts, or to other subjects."""

    def kept(part: Part, measure: Measure) -> np.ndarray:
        return np.array([number(each["tokens"].get(measure)) for each in part["requests"]])

    return tuple(
        difference(
            f"{named(method)} changes more of what is said of the subject in other relations than "
            "of other subjects in the edited one",
            kept(part, Measure.NEIGHBOURS),
            kept(part, Measure.SAME_SUBJECT),
            opposite=f"{named(method)} changes more of what is said of other subjects in the "
            "edited relation than of the subject in other ones",
            scale=100,
            over=OVER,
        )
        for method, part in parts.items()
    )


def _cost_section(parts: Mapping[str, Part]) -> Section:
    rows = []
    for method, part in parts.items():
        success = part["success"]
        row = [*success["fluency"], success["drift"], success["change"]]
        states = ", ".join(f"{count} {status}" for status, count in part["status"].items())
        rows.append([named(method), *map(interval, row), part["seconds_an_edit"], states])
    names = ("method", "fluency before, bits", "fluency after", "perplexity ×", "|dW|/|W|")
    table = Table("cost", (*names, "seconds an edit", "outcomes"), rows, title="Side effects")
    return Section("What an edit costs", "", (table,))


# --- rewiring ------------------------------------------------------------------------------------


def _whole_section(rewired: Mapping[str, Any]) -> Section:
    rows = []
    for method, found in rewired.items():
        sides = {"edit": next(iter(found["edit"].values())), **found["control"]}
        for side, records in sides.items():
            whole = _family(records, "whole")
            rows.append([named(method), side, *(_value(whole.get(("", n))) for n in WHOLE)])
    counts = " or ".join(map(str, sorted({found["n"] for found in rewired.values()})))
    table = Table(
        "rewiring",
        ("method", "change", *WHOLE.values()),
        rows,
        title=f"The circuit as a whole, of the first {counts} edits",
    )
    claims = _rewiring_claims(rewired, "changed", "edges", "change more edges")
    return Section("What is rewired", "", (table,), claims)


def _rewiring_claims(
    rewired: Mapping[str, Any], name: str, unit: str, does: str
) -> tuple[Claim, ...]:
    """That edits do more than each of their controls, request by request."""
    claims = []
    for method, found in rewired.items():
        for kind, records in found["edit"].items():
            row = _family(records, "whole")["", name]
            what = f"edits by {named(method)} {does} than {CONTROLS[kind]}"
            estimate = _value(row, "beyond_control_")
            claims.append(
                claim(
                    what,
                    estimate,
                    row["requests"],
                    opposite=what.replace("more", "fewer"),
                    unit=unit,
                    over=OVER,
                )
            )
    return tuple(claims)


def _group_section(rewired: Mapping[str, Any]) -> Section:
    """By layer and role: the edits, their controls, and the edits beyond each control."""
    kinds = list(next(iter(rewired.values()))["control"])
    columns = ("method", "group", "edit", *kinds, *(f"edit − {kind}" for kind in kinds))
    tables = []
    for family, name, title in BY_GROUP:
        rows = []
        for method, found in rewired.items():
            edits = {kind: _family(found["edit"][kind], family) for kind in kinds}
            controls = {kind: _family(found["control"][kind], family) for kind in kinds}
            rows += [
                [
                    named(method),
                    group,
                    _value(row),
                    *(_value(controls[kind].get((group, name))) for kind in kinds),
                    *(_value(edits[kind][group, name], "beyond_control_") for kind in kinds),
                ]
                for (group, quantity), row in edits[kinds[0]].items()
                if quantity == name
            ]
        tables.append(Table(f"{family}_{name}", columns, rows, title=title, long=True))
    return Section("Where it is rewired", "", tuple(tables))


def _family(
    records: Sequence[Mapping[str, Any]], family: str
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The rows of a family by group and quantity."""
    return {(row["group"], row["name"]): row for row in records if row["family"] == family}


def _rate(rates: Mapping[str, Any], measure: Measure, scoring: str) -> Interval:
    return interval(rates[measure][scoring]) if measure in rates else UNDEFINED


def _value(row: Mapping[str, Any] | None, prefix: str = "") -> Interval:
    """A stored row's estimate, or what it is beyond a control."""
    if row is None:
        return UNDEFINED
    return Interval.from_dict({part: row.get(prefix + part) for part in ("value", "low", "high")})
