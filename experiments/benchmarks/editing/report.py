"""The report of an editing benchmark: what each method does, in the scorings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.errors import PromptError
from circuits.base.intervals import Interval
from circuits.base.plain import number
from circuits.edits.judge.measures import MAGNITUDES, SCORINGS, Measure
from circuits.edits.judge.table import SuccessTable, summarise
from experiments.analyses.edit_study.stored import as_score, edits_made, mean_score
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, average, difference, share
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table, shown
from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT, by_method
from experiments.benchmarks.editing import circuits
from experiments.benchmarks.editing.run import RANDOM
from locate.looks.says.words import percents

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
    Measure.LOCALITY_TRUE: "locality, correct",
    Measure.NEIGHBOURS: "neighbours",
    Measure.NEIGHBOURS_TRUE: "neighbours, correct",
    Measure.SAME_SUBJECT: "other relations",
    Measure.SAME_SUBJECT_TRUE: "other relations, correct",
}
"""The literature's names, in the order of the columns."""
BY_LIKELIHOOD = {Measure.NEIGHBOURS_TRUE: "neighbourhood success"}
"""Names of their own in the table of likelihoods."""
BY_CATEGORY = {
    Measure.PORTABILITY: "portability (KnowEdit)",
    Measure.LOCALITY: "locality (KnowEdit)",
}
"""KnowEdit's aggregate: over a case's categories of prompts first."""
FRONT = ("method", "cases", "edits made")
"""The first columns of a table of rates."""
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
    "95 % bootstrap intervals over cases; requests that are made together are averaged first.",
    "An edit that was not made, as it diverged or its answer was said already, counts as the "
    "unedited model, and so does its random change.",
)
OVER, BESIDE = "cases", ", random change"


def report(parts: Mapping[str, Part], by_category: bool = False) -> Report:
    """The report; see the module's text. PromptError where there is no case.

    With `by_category` KnowEdit's own aggregate stands beside the means over prompts.
    """
    methods = {LABELS.get(name) or named(name): units for name, units in by_method(parts).items()}
    if not methods:
        raise PromptError("there is no case to report")
    tables = {name: _summary(units) for name, units in methods.items()}
    beside = {
        f"{name}{BESIDE}": _summary(units, RANDOM)
        for name, units in methods.items()
        if any(RANDOM in unit for unit in units)
    }
    rows = {label: table for name in methods for label, table in _with_random(name, tables, beside)}
    sections: tuple[Section, ...] = (
        Section(
            "What each method does",
            unasked_text(_unasked(methods)),
            tables=_rate_tables(rows, _made(methods, beside), by_category),
        ),
        Section("What it costs", "", tables=(_cost_table(methods, tables), _requests(methods))),
    )
    sections += circuits.section(methods)
    return Report(_lead(methods, tables), sections, _claims(methods), METHOD)


def _with_random(
    name: str, tables: Mapping[str, SuccessTable], beside: Mapping[str, SuccessTable]
) -> list[tuple[str, SuccessTable]]:
    label = f"{name}{BESIDE}"
    return [(name, tables[name]), *([(label, beside[label])] if label in beside else [])]


def _counts(methods: Mapping[str, Sequence[Part]]) -> dict[str, tuple[int, int]]:
    """How many edits each method made, and of how many; nothing of baselines, which make none."""
    asked = {n: [unit for unit in units if "made" in unit] for n, units in methods.items()}
    return {
        name: (sum(unit["made"] for unit in units), sum(len(unit["prompts"]) for unit in units))
        for name, units in asked.items()
        if units
    }


def _made(methods: Mapping[str, Sequence[Part]], beside: Mapping[str, Any]) -> dict[str, str]:
    """The same in words, also for the random changes beside."""
    found = {name: edits_made(*counts) for name, counts in _counts(methods).items()}
    return {**found, **{name: found[name.removesuffix(BESIDE)] for name in beside}}


def _summary(units: Sequence[Part], which: str = "scores") -> SuccessTable:
    edited = [unit for unit in units if unit.get("drift") is not None] if which == "scores" else []
    return summarise(
        [mean_score([as_score(each) for each in unit[which]]) for unit in units if unit.get(which)],
        [number(unit["drift"]) for unit in edited],
        [unit["growth"] for unit in edited],
    )


# --- words ---------------------------------------------------------------------------------------


def known_share(methods: Mapping[str, Sequence[Part]]) -> Interval | None:
    """Share of the true answers that the unedited model gives; None where no row has one.

    The limits are over cases: a case's share comes first where it makes several requests.
    """
    seen: dict[int, float] = {}
    for units in methods.values():
        for unit in units:
            known = [each for each in unit["known"] if each is not None]
            if known:
                seen[unit["case"]] = float(np.mean(known))
    shares = list(seen.values())
    if not shares:
        return None
    whole = all(each in (0, 1) for each in shares)
    return share([each == 1 for each in shares]) if whole else average(shares)


def _known_text(methods: Mapping[str, Sequence[Part]]) -> str:
    known = known_share(methods)
    if known is None:
        return "The file has no true answers, so what the model knew before cannot be said."
    text = f"Before any edit the model gives {percents(known)} of the true answers."
    if known.value < FEW_KNOWN:
        text += (
            " Most edits here write a fact where the model had none, which says little of changing "
            "one that it knows."
        )
    return text


def _unasked(methods: Mapping[str, Sequence[Part]]) -> list[str]:
    """Why prompts of the cases cannot be asked."""
    by_case = {unit["case"]: unit["left_out"] for units in methods.values() for unit in units}
    return [reason for case in by_case.values() for reason in case]


def unasked_text(reasons: Sequence[str]) -> str:
    """How many prompts of the cases cannot be asked, and why the first; nothing of none."""
    if not reasons:
        return ""
    return f"{len(reasons)} prompts of the cases cannot be asked, the first: {reasons[0]}."


def _lead(methods: Mapping[str, Sequence[Part]], tables: Mapping[str, SuccessTable]) -> str:
    """What each method makes the model say, in free generation, beside the baselines."""
    counts = _counts(methods)
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
        made, asked = counts.get(name, (0, 0))
        few = f", {edits_made(made, asked)} edits made" if made < asked else ""
        told[is_baseline].append(f"{_percent(free[Measure.EFFICACY])} with {name}{few}{more}")
    sizes = [len({unit["case"] for unit in units}) for units in methods.values()]
    n = str(max(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
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


def _rate_tables(
    rows: Mapping[str, SuccessTable], made: Mapping[str, str], by_category: bool
) -> tuple[Table, ...]:
    """One table a scoring, as far as it says anything of these cases, and CounterFact's sizes."""
    found = [_rate_table(scoring, rows, made, by_category) for scoring in SCORINGS]
    found.append(_magnitudes(rows, made))
    return tuple(table for table in found if len(table.columns) > len(FRONT))


def _rate_table(
    scoring: str, rows: Mapping[str, SuccessTable], made: Mapping[str, str], by_category: bool
) -> Table:
    own = BY_LIKELIHOOD if scoring == "likelihood" else {}
    columns: dict[str, list[Any]] = {}
    for measure, name in NAMES.items():
        columns[own.get(measure, name)] = [_rate(x.after, measure, scoring) for x in rows.values()]
        if by_category and measure in BY_CATEGORY:
            columns[BY_CATEGORY[measure]] = [
                _rate(x.knowedit, measure, scoring) for x in rows.values()
            ]
    by_hops, carried = columns[NAMES[Measure.MULTI_HOP]], NAMES[Measure.PORTABILITY]
    if any(map(_is_defined, by_hops)) and columns[carried] == by_hops:
        del columns[carried]  # MQuAKE has no other
    if scoring == "likelihood":
        columns["score"] = [Interval(x.score, np.nan, np.nan) for x in rows.values()]
    return _of_columns(
        f"success_{scoring}",
        columns,
        made,
        rows,
        title=TITLES[scoring],
        note="Neighbourhood success: a neighbour's true answer is likelier than the edit's. Score: "
        "harmonic mean of reliability, generalisation and neighbourhood success (CounterFact)."
        if scoring == "likelihood"
        else "Locality and neighbours are agreement with the unedited model; correct: the true "
        "answer is given.",
        percent=True,
    )


def _magnitudes(rows: Mapping[str, SuccessTable], made: Mapping[str, str]) -> Table:
    columns = {
        BY_LIKELIHOOD.get(measure, NAMES[measure]): [
            x.magnitude.get(measure) for x in rows.values()
        ]
        for measure in MAGNITUDES
    }
    return _of_columns(
        "magnitude",
        columns,
        made,
        rows,
        title="Magnitude (published by CounterFact): p of the wanted answer minus p of its rival",
        note="p is the geometric mean over an answer's tokens; of neighbours the true answer is "
        "wanted.",
    )


def _of_columns(
    name: str,
    columns: Mapping[str, Sequence[Interval | None]],
    made: Mapping[str, str],
    rows: Mapping[str, SuccessTable],
    *,
    title: str,
    note: str,
    percent: bool = False,
) -> Table:
    """The columns in which some row has a number, after the method, its cases and its edits."""
    known = {head: cells for head, cells in columns.items() if any(map(_is_defined, cells))}
    body = [
        [label, table.n, made.get(label), *(cells[place] for cells in known.values())]
        for place, (label, table) in enumerate(rows.items())
    ]
    shown_in = set(known) if percent else set()
    return Table(name, (*FRONT, *known), body, title, note, shown_in)


def _is_defined(rate: Interval | None) -> bool:
    return rate is not None and bool(np.isfinite(rate.value))


def _rate(
    side: Mapping[Measure, Mapping[str, Interval]], measure: Measure, scoring: str
) -> Interval | None:
    return side[measure][scoring] if measure in side else None


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
    lengths = {unit["fluency_tokens"] for units in methods.values() for unit in units} - {0}
    long = f" of {', '.join(map(str, sorted(lengths)))} tokens" if lengths else ""
    names = (f"fluency{long} before, bits", "fluency after", "perplexity ×", "|dW|/|W|")
    columns = ("method", *names, "seconds a case", "outcomes")
    note = "Perplexity and |dW|/|W| are of the edits that were made, fluency is of all cases."
    return Table("cost", columns, rows, title="Side effects", note=note)


def _requests(methods: Mapping[str, Sequence[Part]]) -> Table:
    rows = []
    for name, units in methods.items():
        for unit in units:
            named_by = (unit["prompts"], unit["targets"], unit["known"], unit["scores"])
            for prompt, target, known, score in zip(*named_by, strict=True):
                sizes = map(number, score["probability"])
                rows.append([name, unit["case"], prompt, target, known, *sizes, *score["reply"]])
    columns = ("method", "case", "prompt", "target", "known", "p before", "p after")
    return Table("cases", (*columns, "said before", "says after"), rows, stored_only=True)
