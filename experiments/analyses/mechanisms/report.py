"""The report of `mechanisms`: tables, sentences and figures from the stored parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import interval, number
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.claims import (
    FEWEST,
    Claim,
    Verdict,
    across,
    average,
    difference,
    rate,
)
from experiments.analyses.engine.tables import Table, shown
from viz.paper.charts import Bars

OVER = "relations"
ASKED = {
    "cloze": "cloze questions",
    "exact": "exact recall",
    "paraphrase": "paraphrases",
    "reversal": "reversed questions",
    "negation": "negated questions",
    "two hops": "two hops",
    "comparison": "comparisons",
    "unseen combination": "unseen combinations",
}
"""The probes in a sentence."""
PLAIN = ("cloze", "exact")
"""What is memorised as it was asked."""

METHOD = (
    "Cloze and exact ask in the relation's first training wording: cloze wants the best of the "
    "relation's objects to be the right one, exact every token of the object on top. Paraphrase "
    "asks in a wording that the embedded models were not trained on. Reversal asks for the subject "
    "of an object that belongs to one subject only. Negation ends the question with “not”; it is "
    "passed when another object than the true one is the best. Two hops ask a relation about an "
    "object that is not named, as the capital of the country where a landmark stands. Comparison "
    "names two subjects and an object and asks which of the two has it. Unseen combination asks "
    "the second of the two hops in its own wording directly of the first one's subject, which is "
    "of a kind that this relation was never asked about. With `--shots` as many of a probe's "
    "questions stand answered before the others; a negation is answered by another object there.",
    "Right means that of all candidates (the relation's objects, for reversal its subjects, for "
    "comparison the two named) the right one's first token has the highest logit. Top of all "
    "tokens is stricter. The best constant guess says the same candidate to every question, and is "
    "right by its first token too. Each relation or chain counts alike.",
    "Circuits are found by EAP-IG. The circuit of plain recall comes from one half of the "
    "relation's subjects in the first wording, the probe's circuit from questions about other "
    "subjects that the model answers right (for a negation: from all, with the true object as the "
    "answer). Overlap is the Jaccard index of their edges. A second discovery of plain recall on "
    "the other half of the subjects shows how much one may expect at best, random connected "
    "circuits what chance gives. Carried is the faithfulness of the circuit of plain recall on "
    "the probe's questions.",
    "Intervals are 95 % bootstrap intervals over relations or chains; they are not adjusted for "
    "the number of probes. Of fewer than five, what is said of the constant guess is about these "
    "alone, over their questions (Wilson).",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    groups = _by_probe(parts)
    accuracy = _accuracy_claims(groups)
    sections = (
        Section(
            "How often the model is right",
            "",
            claims=tuple(accuracy[probe] for probe in PLAIN if probe in accuracy),
            tables=(_main_table(groups), _example_table(groups)),
            figures=(_accuracy_figure(groups),),
        ),
        Section(
            "Whether the same circuit does it",
            _circuit_text(groups),
            claims=tuple(_overlap_claims(groups)),
            tables=(_circuit_table(groups),),
            figures=_overlap_figure(groups),
        ),
        Section("Relation by relation", "", tables=(_unit_table(parts),)),
    )
    answer = tuple(claim for probe, claim in accuracy.items() if probe not in PLAIN)
    return Report(_lead(groups), sections, answer, METHOD)


# --- numbers -------------------------------------------------------------------------------------


def _by_probe(parts: Mapping[str, Part]) -> dict[str, list[Part]]:
    groups: dict[str, list[Part]] = {}
    for part in parts.values():
        groups.setdefault(part["probe"], []).append(part)
    return groups


def _rates(group: Sequence[Part], what: str) -> np.ndarray:
    return np.array([np.mean(part[what]) for part in group])


def _guesses(group: Sequence[Part]) -> np.ndarray:
    return np.array([number(part["guess"]) for part in group])


def _with_circuit(group: Sequence[Part]) -> list[Part]:
    return [part for part in group if part.get("circuit")]


def _shares(group: Sequence[Part], which: str, what: str = "edges") -> np.ndarray:
    return np.array([number(part["circuit"][which][what]) for part in _with_circuit(group)])


def _carried(group: Sequence[Part], which: str) -> np.ndarray:
    return np.array([interval(part["circuit"][which]).value for part in _with_circuit(group)])


# --- words ---------------------------------------------------------------------------------------


def _lead(groups: Mapping[str, Sequence[Part]]) -> str:
    rates = {probe: float(_rates(group, "right").mean()) for probe, group in groups.items()}
    pieces = ", ".join(f"{probe} {shown(rate * 100, 0)} %" for probe, rate in rates.items())
    text = f"Share of questions answered right: {pieces}."
    guess = "the best constant guess on"
    told: dict[str, list[str]] = {}
    for probe, group in groups.items():
        found = _beats_guess(probe, group)
        if found.verdict == Verdict.SUPPORTED:
            continue
        alone = found.n < FEWEST  # and so about these relations
        if not np.isfinite(found.estimate.low):
            start = f"Too few {found.over} to say whether it beats {guess}"
        elif found.verdict == Verdict.OPPOSITE:
            start = f"{'In these few it' if alone else 'It'} does worse than {guess}"
        else:
            start = f"{'In these few no' if alone else 'No'} evidence that it beats {guess}"
        told.setdefault(start, []).append(ASKED[probe])
    for start, probes in told.items():
        text += f" {start} {', '.join(probes)}."
    return text


def _beats_guess(probe: str, group: Sequence[Part]) -> Claim:
    rights = [(rate(part["right"]), number(part["guess"])) for part in group]
    beaten_by = [Interval(*(x - guess for x in vars(own).values())) for own, guess in rights]
    return across(
        f"on {ASKED[probe]} the model does [better|worse] than the best constant guess",
        beaten_by,
        scale=100,
        over="chains" if "+" in group[0]["name"] else OVER,
        within="questions",
    )


def _accuracy_claims(groups: Mapping[str, Sequence[Part]]) -> dict[str, Claim]:
    return {probe: _beats_guess(probe, group) for probe, group in groups.items()}


def _overlap_claims(groups: Mapping[str, Sequence[Part]]) -> list[Claim]:
    return [
        difference(
            f"the circuit of {ASKED[probe]} shares [less|more] with that of plain recall than a "
            "second discovery of plain recall does",
            _shares(group, "again"),
            _shares(group, "overlap"),
            unit="of the edges",
            over=OVER,
        )
        for probe, group in groups.items()
        if probe != "cloze" and len(_with_circuit(group)) >= 2
    ]


def _circuit_text(groups: Mapping[str, Sequence[Part]]) -> str:
    without = {
        probe: len(group) - len(_with_circuit(group))
        for probe, group in groups.items()
        if probe != "exact" and len(_with_circuit(group)) < len(group)
    }
    if not without:
        return ""
    pieces = ", ".join(f"{probe} {n} of {len(groups[probe])}" for probe, n in without.items())
    return (
        "Where too few questions can be paired, or nothing of a circuit lies on a path to the "
        f"answer, there is none to look at: {pieces} relations or chains."
    )


# --- tables --------------------------------------------------------------------------------------


def _main_table(groups: Mapping[str, Sequence[Part]]) -> Table:
    shares = {
        "right": lambda _, group: average(_rates(group, "right")),
        "best constant guess": lambda _, group: average(_guesses(group)).value,
        "top of all tokens": lambda _, group: average(_rates(group, "top")),
    }
    return Table.of(
        "accuracy",
        groups,
        {
            "mechanism": lambda _, group: group[0]["mechanism"],
            "probe": lambda probe, _: probe,
            "relations": lambda _, group: len(group),
            "questions": lambda _, group: sum(part["n"] for part in group),
            **shares,
        },
        title="Accuracy by probe",
        note=(
            "In brackets: 95 % intervals over relations or chains. A negation is right where "
            "another object is the best; there the last column says how often the true object is "
            "on top all the same."
        ),
        percent=set(shares),
    )


def _example_table(groups: Mapping[str, Sequence[Part]]) -> Table:
    return Table.of(
        "examples",
        {probe: group[0]["example"] for probe, group in groups.items()},
        {
            "probe": lambda probe, _: probe,
            "first question": lambda _, each: each["prompt"],
            "answer": lambda _, each: each["answer"],
            "the model's first token": lambda _, each: each["said"].strip() or repr(each["said"]),
        },
        title="One question of each probe",
        long=True,
    )


def _circuit_table(groups: Mapping[str, Sequence[Part]]) -> Table:
    return Table.of(
        "overlap",
        {probe: found for probe, group in groups.items() if (found := _with_circuit(group))},
        {
            "probe": lambda probe, _: probe,
            "circuits": lambda _, group: len(group),
            "edges shared": lambda _, group: average(_shares(group, "overlap")),
            "second discovery": lambda _, group: average(_shares(group, "again")),
            "random circuits": lambda _, group: average(_shares(group, "chance")),
            "nodes shared": lambda _, group: average(_shares(group, "overlap", "nodes")),
            "carried by plain recall": lambda _, group: average(_carried(group, "carried")),
            "carried by random circuits": lambda _, group: average(
                _carried(group, "carried_random")
            ),
        },
        title="Circuits of the probes beside the circuit of plain recall",
        note="Shared: Jaccard index. In brackets: 95 % intervals over relations or chains.",
        default_digits=2,
    )


def _unit_table(parts: Mapping[str, Part]) -> Table:
    def of_circuit(read: Callable[[Any], Any]) -> Callable[[Part], Any]:
        return lambda part: read(part["circuit"]) if part.get("circuit") else None

    shares = {
        "right": lambda part: float(np.mean(part["right"])),
        "best constant guess": lambda part: number(part["guess"]),
        "top of all tokens": lambda part: float(np.mean(part["top"])),
    }
    return Table.of(
        "units",
        parts.values(),
        {
            "probe": lambda part: part["probe"],
            "relation or chain": lambda part: part["name"],
            "questions": lambda part: part["n"],
            **shares,
            "edges shared": of_circuit(lambda found: number(found["overlap"]["edges"])),
            "second discovery": of_circuit(lambda found: number(found["again"]["edges"])),
            "carried": of_circuit(lambda found: interval(found["carried"])),
        },
        title="Every probe and relation",
        percent=set(shares),
        digits=dict.fromkeys(shares, 0),
        default_digits=2,
        long=True,
    )


# --- figures -------------------------------------------------------------------------------------


def _accuracy_figure(groups: Mapping[str, Sequence[Part]]) -> Figure:
    chart = Bars(
        list(groups),
        {
            "right": [_percent(average(_rates(group, "right"))) for group in groups.values()],
            "top of all tokens": [
                _percent(average(_rates(group, "top"))) for group in groups.values()
            ],
            "best constant guess": [
                _percent(average(_guesses(group))) for group in groups.values()
            ],
        },
        "questions, %",
        muted=("best constant guess",),
        y_limits=(0.0, 103.0),
    )
    return Figure(
        "accuracy",
        "Accuracy by probe, mean over relations or chains with 95 % intervals.",
        chart.draw,
    )


def _overlap_figure(groups: Mapping[str, Sequence[Part]]) -> tuple[Figure, ...]:
    shown_groups = {probe: group for probe, group in groups.items() if _with_circuit(group)}
    if not shown_groups:
        return ()
    series = {
        label: [average(_shares(group, which)) for group in shown_groups.values()]
        for label, which in (
            ("with the circuit of plain recall", "overlap"),
            ("second discovery of plain recall", "again"),
            ("random circuits", "chance"),
        )
    }
    chart = Bars(list(shown_groups), series, "edges shared (Jaccard)", muted=("random circuits",))
    caption = (
        "How much of the edges the circuit of each probe shares with the circuit of plain recall "
        "of the same relation, with 95 % intervals over relations or chains."
    )
    return (Figure("overlap", caption, chart.draw),)


def _percent(each: Interval) -> Interval:
    return Interval(each.value * 100, each.low * 100, each.high * 100)
