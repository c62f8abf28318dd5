"""The report of an editing benchmark: what each method does, in the scorings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.errors import PromptError
from circuits.base.intervals import Interval
from circuits.base.plain import number
from circuits.edits.judge.measures import SCORINGS, Measure
from circuits.edits.judge.table import SuccessTable, summarise
from experiments.analyses.edit_study.stored import as_score
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, average, difference, share
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table, shown
from experiments.benchmarks.base import NO_EDIT, by_method
from experiments.benchmarks.editing import circuits
from experiments.benchmarks.editing.run import IN_CONTEXT, RANDOM

NAMES = {
    Measure.EFFICACY: "reliability",
    Measure.PARAPHRASE: "generalisation",
    Measure.HELD_OUT: "generalisation, held out",
    Measure.PORTABILITY: "portability",
    Measure.ALIAS: "alias",
    Measure.REVERSAL: "reversal",
    Measure.ONE_HOP: "one hop",
    Measure.MULTI_HOP: "multi-hop",
    Measure.MULTI_HOP_ANY: "multi-hop, any wording (published)",
    Measure.SINGLE_HOP: "single hops",
    Measure.LOCALITY: "locality",
    Measure.NEIGHBOURS: "neighbours",
    Measure.SAME_SUBJECT: "other relations",
}
"""The literature's names, in the order of the columns."""
TITLES = {
    "tokens": "Teacher-forced (published by EasyEdit and KnowEdit): share of the answer's tokens "
    "that are the argmax, each after the true ones before it",
    "generation": "Free generation (corrected): the greedy reply begins with the answer as whole "
    "words",
    "likelihood": "Likelihood (published by CounterFact): the wanted answer is likelier than its "
    "rival",
}
FEW_KNOWN = 0.5
LABELS = {NO_EDIT: "no edit", IN_CONTEXT: "fact in the prompt"}
"""Baselines as readers know them."""
METHOD = (
    "Every case is edited alone on the unedited model, and judged by the prompts of its row before "
    "and after: the edited prompt (reliability), other wordings (generalisation), what follows "
    "from the edit (portability), what should stay (locality: the same answer as before, right or "
    "wrong).",
    "Beside each method stands a random change with the edit's singular values at the same "
    "weights. `no edit` changes nothing; `fact in the prompt` states the new fact before every "
    "prompt of the unedited model.",
    "Teacher-forced scores give the model the answer's own tokens and are kind to long answers; "
    "compare them with free generation before believing either (Yang et al. 2025). Intervals are "
    "95 % bootstrap intervals over cases.",
)
OVER = "cases"


def report(parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text. PromptError where no case has a score."""
    methods = {
        LABELS.get(name) or named(name): units
        for name, units in by_method(parts).items()
        if _scores(units)
    }
    if not methods:
        raise PromptError("no case has a score")
    tables = {name: _summary(units) for name, units in methods.items()}
    beside = {
        f"{name}, random change": _summary(units, RANDOM)
        for name, units in methods.items()
        if _scores(units, RANDOM)
    }
    rows = {label: table for name in methods for label, table in _with_random(name, tables, beside)}
    sections: tuple[Section, ...] = (
        Section(
            "What each method does",
            _unasked_text(methods),
            tables=_rate_tables(rows),
        ),
        Section("What it costs", "", tables=(_cost_table(methods, tables), _requests(methods))),
    )
    sections += circuits.section(methods)
    return Report(_lead(methods, tables), sections, _claims(methods), METHOD)


def _with_random(
    name: str, tables: Mapping[str, SuccessTable], beside: Mapping[str, SuccessTable]
) -> list[tuple[str, SuccessTable]]:
    label = f"{name}, random change"
    return [(name, tables[name]), *([(label, beside[label])] if label in beside else [])]


def _scores(units: Sequence[Part], which: str = "scores") -> list[Mapping[str, Any]]:
    return [score for unit in units for score in unit.get(which) or ()]


def _summary(units: Sequence[Part], which: str = "scores") -> SuccessTable:
    edited = [unit for unit in units if unit.get("drift") is not None] if which == "scores" else []
    return summarise(
        [as_score(each) for each in _scores(units, which)],
        [number(unit["drift"]) for unit in edited],
        [unit["growth"] for unit in edited],
    )


# --- words ---------------------------------------------------------------------------------------


def known_share(methods: Mapping[str, Sequence[Part]]) -> Interval | None:
    """Share of the true answers that the unedited model gives; None where no row has one."""
    seen: dict[int, list[bool]] = {}
    for units in methods.values():
        for unit in units:
            seen[unit["case"]] = [each for each in unit["known"] if each is not None]
    flat = [each for case in seen.values() for each in case]
    return share(flat) if flat else None


def _known_text(methods: Mapping[str, Sequence[Part]]) -> str:
    known = known_share(methods)
    if known is None:
        return "The file has no true answers, so what the model knew before cannot be said."
    text = (
        f"Before any edit the model gives {shown(100 * known.value, 0)} % of the true answers "
        f"[{shown(100 * known.low, 0)}, {shown(100 * known.high, 0)}]."
    )
    if known.value < FEW_KNOWN:
        text += (
            " Most edits here write a fact where the model had none, which says little of changing "
            "one that it knows."
        )
    return text


def _unasked_text(methods: Mapping[str, Sequence[Part]]) -> str:
    """How many prompts of the cases cannot be asked, and why the first."""
    by_case = {unit["case"]: unit["left_out"] for units in methods.values() for unit in units}
    reasons = [reason for case in by_case.values() for reason in case]
    if not reasons:
        return ""
    return f"{len(reasons)} prompts of the cases cannot be asked, the first: {reasons[0]}."


def _lead(methods: Mapping[str, Sequence[Part]], tables: Mapping[str, SuccessTable]) -> str:
    """What each method makes the model say, in free generation, beside the baselines."""
    told = {False: list[str](), True: list[str]()}
    for name, table in tables.items():
        free = {measure: row["generation"].value for measure, row in table.after.items()}
        carried = (
            (Measure.MULTI_HOP, "over several hops")
            if Measure.MULTI_HOP in free
            else (Measure.PORTABILITY, "of what follows")
        )
        wanted = (
            (Measure.PARAPHRASE, "in other wordings"),
            carried,
            (Measure.LOCALITY, "of the rest as before"),
        )
        found = [
            f"{_percent(free[measure])} {words}"
            for measure, words in wanted
            if np.isfinite(free.get(measure, np.nan))
        ]
        is_baseline = name in LABELS.values()
        more = f" ({', '.join(found)})" if found and not is_baseline else ""
        told[is_baseline].append(f"{_percent(free[Measure.EFFICACY])} with {name}{more}")
    n = max(len({unit["case"] for unit in units}) for units in methods.values())
    parts = [", ".join(each) for each in told.values() if each]
    said = f"Of the new answers of {n} cases the model says, in free generation, "
    return f"{said}{'; '.join(parts)}. {_known_text(methods)}"


def _percent(value: float) -> str:
    return f"{shown(100 * value, 0)} %"


def _claims(methods: Mapping[str, Sequence[Part]]) -> tuple[Claim, ...]:
    claims = []
    told = _by_case(methods.get(LABELS[IN_CONTEXT], ()))
    for name, units in methods.items():
        own = _by_case(units)
        if name in LABELS.values():
            continue
        claims.append(
            difference(
                f"{name} looks [better|worse] teacher-forced than it is in free generation",
                [rates["tokens"] for rates in own.values()],
                [rates["generation"] for rates in own.values()],
                scale=100,
                over=OVER,
            )
        )
        both = [case for case in own if case in told]
        if both:
            claims.append(
                difference(
                    f"{name} gets [more|fewer] new answers said than the fact in the prompt does",
                    [own[case]["generation"] for case in both],
                    [told[case]["generation"] for case in both],
                    scale=100,
                    over=OVER,
                )
            )
    return tuple(claims)


def _by_case(units: Sequence[Part]) -> dict[int, dict[str, float]]:
    """Reliability of each case, as a mean over its requests, by scoring."""
    found = {}
    for unit in units:
        rates = [score["after"][str(Measure.EFFICACY)] for score in unit["scores"]]
        if rates:
            found[unit["case"]] = {
                name: float(np.mean([number(each[name]) for each in rates])) for name in SCORINGS
            }
    return found


# --- tables --------------------------------------------------------------------------------------


def _rate_tables(rows: Mapping[str, SuccessTable]) -> tuple[Table, ...]:
    """One table a scoring, as far as it says anything of these cases."""
    made = (_rate_table(scoring, rows) for scoring in SCORINGS)
    return tuple(table for table in made if len(table.columns) > 1)


def _rate_table(scoring: str, rows: Mapping[str, SuccessTable]) -> Table:
    present = [
        measure
        for measure in NAMES
        if any(_is_defined(_rate(table, measure, scoring)) for table in rows.values())
    ]
    columns = [NAMES[measure] for measure in present]
    body: list[list[Any]] = [
        [label, *(_rate(table, measure, scoring) for measure in present)]
        for label, table in rows.items()
    ]
    if scoring == "likelihood" and any(np.isfinite(table.score) for table in rows.values()):
        columns.append("score")
        for line, table in zip(body, rows.values(), strict=True):
            line.append(table.score)
    return Table(
        f"success_{scoring}",
        ("method", *columns),
        body,
        title=TITLES[scoring],
        note="Score: harmonic mean of reliability, generalisation and neighbours (CounterFact)."
        if scoring == "likelihood"
        else "",
        percent=set(columns),
    )


def _is_defined(rate: Interval | None) -> bool:
    return rate is not None and bool(np.isfinite(rate.value))


def _rate(table: SuccessTable, measure: Measure, scoring: str) -> Interval | None:
    return table.after[measure][scoring] if measure in table.after else None


def _cost_table(methods: Mapping[str, Sequence[Part]], tables: Mapping[str, SuccessTable]) -> Table:
    rows = []
    for name, table in tables.items():
        counts: dict[str, int] = {}
        for unit in methods[name]:
            for state, count in unit["status"].items():
                counts[state] = counts.get(state, 0) + count
        seconds = average([unit.get("seconds", np.nan) for unit in methods[name]])
        states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "–"
        rows.append([name, *table.fluency, table.drift, table.change, seconds.value, states])
    names = ("method", "fluency before, bits", "fluency after", "perplexity ×", "|dW|/|W|")
    return Table("cost", (*names, "seconds a case", "outcomes"), rows, title="Side effects")


def _requests(methods: Mapping[str, Sequence[Part]]) -> Table:
    rows = []
    for name, units in methods.items():
        for unit in units:
            scores = unit["scores"] or [None] * len(unit["prompts"])
            for place, score in enumerate(scores):
                before, after = score["probability"] if score else (None, None)
                said = score["reply"] if score else ("", "")
                about = [name, unit["case"], unit["prompts"][place], unit["targets"][place]]
                rows.append([*about, unit["known"][place], number(before), number(after), *said])
    columns = ("method", "case", "prompt", "target", "known", "p before", "p after")
    return Table("cases", (*columns, "said before", "says after"), rows, stored_only=True)
