"""The report of `icl`: tables, sentences and figures from the stored parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import interval, number
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.claims import (
    Claim,
    Verdict,
    across,
    average,
    difference,
    minus,
    rate,
    so_many,
)
from experiments.analyses.engine.tables import Table, shown
from viz.paper.charts import Bars, Lines

OVER = "relations"
LABELS = {
    "whole": "whole model",
    "new": "without new heads",
    "grown": "without grown heads",
    "circuit": "without circuit heads",
    "random": "without random heads",
}
GROUPS = {"new": "new heads", "circuit": "other heads of the circuit", "others": "all other heads"}

METHOD = (
    "A fact is asked after 0, 1, 2, ... examples of its relation, as a list (`France: Paris. "
    "Japan:`), which does not say what is asked, or in the sentences of one wording. Examples are "
    "drawn once a fact, and hold neither its subject nor its answer.",
    "Circuits are found with EAP-IG on the answer's log-probability, on one half of the facts that "
    "are right after the examples. Cut edges carry the mean over the prompts (or nothing), not "
    "another prompt's value: clean and corrupted prompt would have the same examples. Heads are "
    "new where the circuit with examples has them and the one without, on the same facts, does "
    "not. How many are new by chance is seen in two circuits without examples, one a half.",
    "The other half of the facts, whose subjects are in no prompt that found a circuit, tests the "
    "heads: they are silenced at every position, beside as "
    "many random heads, and as many other heads of the circuit with examples (means over the "
    "draws). Heads that grew are as many heads as are new, whose part in the heads' score mass "
    "grew most; they may have been there before. Attention is value-weighted, at the last token. "
    "The induction score is the attention, on random tokens that come twice, to what followed the "
    "same token before, beside that of a head that attends evenly.",
    "Intervals of a relation resample its facts, those of averages and sentences the relations. "
    "How many heads come in is counted again on resamples of both halves, which give the width of "
    "its interval: they lie lower than the count itself, as resamples differ more by chance.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    styles = {str(style): _Style(str(style), parts, config.compare) for style in config.styles}
    used = {name: style for name, style in styles.items() if style.parts}
    sections = [_gain_section(used)]
    answer: list[Claim] = []
    for style in used.values():
        if style.heads:
            sections.append(_head_section(style))
        if style.is_enough:
            answer += [style.cost_claim("new", "random"), style.count_claim()]
    return Report(_lead(used), tuple(sections), tuple(answer), METHOD)


class _Style:
    """The parts of one style: those in which facts could be asked, and those with circuits."""

    def __init__(self, name: str, parts: Mapping[str, Part], compare: int) -> None:
        self.name, self.compare = name, compare
        self.parts = {key: part[name] for key, part in parts.items() if part.get(name)}
        self.heads = {key: part["heads"] for key, part in self.parts.items() if part["heads"]}
        self.counts: list[int] = max(
            (part["counts"] for part in self.parts.values()), key=len, default=[0]
        )

    @property
    def asked(self) -> str:
        """The style in words."""
        return "as a list" if self.name == "list" else "in sentences"

    @property
    def is_enough(self) -> bool:
        """Whether there is a relation with circuits to speak of."""
        return bool(self.heads)

    @property
    def after(self) -> str:
        """After how many examples circuits are compared."""
        return f"after {self.compare} example{'s' if self.compare > 1 else ''}"

    def by_count(self, what: str, count: int) -> np.ndarray:
        """Mean over a relation's facts of `right` or `probability`, a value a relation."""
        return np.array([np.mean(part[what][str(count)]) for part in self.parts.values()])

    def gains(self, count: int) -> list[Interval]:
        """How many more of a relation's facts are right after so many examples than without."""
        rights = [part["right"] for part in self.parts.values()]
        return [minus(rate(each[str(count)]), rate(each["0"])) for each in rights]

    def mean(self, condition: str, what: str, who: str) -> np.ndarray:
        """Mean over facts with some heads silenced, a value a relation."""
        return np.array([np.mean(heads[condition][what][who]) for heads in self.heads.values()])

    def more(self, condition: str, who: str, other: str) -> list[Interval]:
        """How much likelier the answer is with some heads silenced than with others.

        One mean over a relation's facts each, with its interval.
        """
        probability = [heads[condition]["probability"] for heads in self.heads.values()]
        return [average(np.subtract(each[who], each[other])) for each in probability]

    def over(self, read: Callable[[Mapping[str, Any]], Any]) -> np.ndarray:
        """A number a relation; NaN where there is none."""
        return np.array([number(read(heads)) for heads in self.heads.values()])

    def cost_claim(self, who: str, control: str) -> Claim:
        """That silencing some heads costs more probability than silencing others."""
        named = {"new": "the heads that are new with examples", "grown": "the heads that grew most"}
        beside = {"random": "random heads", "circuit": "other heads of the circuit"}[control]
        return across(
            f"asked {self.asked}, silencing {named[who]} costs [more|less] probability than "
            f"silencing as many {beside}",
            self.more("with_examples", control, who),
            scale=100,
            over=OVER,
        )

    def count_claim(self) -> Claim:
        """That examples bring in more heads than chance does."""
        return across(
            f"asked {self.asked}, examples bring [more|fewer] heads into the circuit than "
            "another half of the facts does",
            [interval(heads["brought_in"]) for heads in self.heads.values()],
            unit="heads",
            over=OVER,
        )

    def other_claims(self) -> tuple[Claim, ...]:
        """What else is said about the new heads."""

        def induction(group: str) -> np.ndarray:
            return self.over(lambda heads: heads["induction"][group])

        return (
            self.cost_claim("new", "circuit"),
            self.cost_claim("grown", "random"),
            self.cost_claim("grown", "circuit"),
            across(
                "silencing the new heads costs more probability [with|without] examples[ than "
                "without|]",
                [
                    minus(*sides)
                    for sides in zip(
                        self.more("with_examples", "whole", "new"),
                        self.more("without_examples", "whole", "new"),
                        strict=True,
                    )
                ],
                scale=100,
                over=OVER,
            ),
            across(
                "the new heads attend [more|less] to the examples than the circuit's other heads",
                [interval(heads["attend_more"]) for heads in self.heads.values()],
                unit="points of attention",
                scale=100,
                over=OVER,
            ),
            difference(
                "the new heads have a [higher|lower] induction score than a head that attends "
                "evenly",
                induction("new"),
                induction("even"),
                unit="",
                over=OVER,
            ),
        )


# --- what examples do ----------------------------------------------------------------------------


def _lead(styles: Mapping[str, _Style]) -> str:
    texts = []
    for style in styles.values():
        first, last = (100 * style.by_count("right", n).mean() for n in (0, style.counts[-1]))
        text = (
            f"Asked {style.asked}, {so_many(len(style.parts), OVER)}: {first:.0f} % right without "
            f"examples, {last:.0f} % after {style.counts[-1]}"
        )
        if style.is_enough:
            text += _what_new_heads_do(style)
        texts.append(text + ".")
    return " ".join(texts) or "No fact could be asked after examples."


def _what_new_heads_do(style: _Style) -> str:
    mean = style.over(lambda heads: len(heads["new"])).mean()
    verdict = style.cost_claim("new", "random").verdict
    what = {
        Verdict.SUPPORTED: "matter more than random ones",
        Verdict.OPPOSITE: "matter less than random ones",
    }.get(verdict, "do not tell themselves from random ones")
    return f"; {style.after} {mean:.1f} heads are new in the circuit, and they {what}"


def _gain_section(styles: Mapping[str, _Style]) -> Section:
    if not styles:
        return Section("What examples do", "No fact could be asked.")
    counts = max((style.counts for style in styles.values()), key=len)
    panels: dict[str, dict[str, list[Interval]]] = {}
    for title, what in (("right answers", "right"), ("probability of the answer", "probability")):
        panels[title] = {
            style.asked: [average(style.by_count(what, n)) for n in counts]
            for style in styles.values()
        }
    chart = Lines(
        list(range(len(counts))),
        panels,
        "examples before the question",
        ("share", "probability"),
        x_names=[str(n) for n in counts],
        y_limits=(-0.02, 1.05),
    )
    body = [
        [
            key,
            style.asked,
            len(part["right"]["0"]),
            *(average(part["right"][str(n)]) for n in counts),
            *(average(part["probability"][str(n)]) for n in counts),
        ]
        for style in styles.values()
        for key, part in style.parts.items()
    ]
    columns = [f"right, {n}" for n in counts] + [f"p, {n}" for n in counts]
    table = Table(
        "examples",
        ("relation", "asked", "facts", *columns),
        body,
        title="Right answers and the answer's probability by number of examples",
        note="In brackets: 95 % bootstrap intervals over facts.",
        default_digits=2,
        long=True,
    )
    claims = tuple(
        across(
            f"asked {style.asked}, [more|fewer] facts are right after {style.counts[-1]} "
            "examples than without",
            style.gains(style.counts[-1]),
            scale=100,
            over=OVER,
        )
        for style in styles.values()
    )
    shown_prompts = Table(
        "prompts",
        ("asked", "a prompt"),
        [
            [style.asked, next(iter(style.parts.values()))["example"].replace("\n", " ")]
            for style in styles.values()
        ],
        title="What is asked",
    )
    caption = (
        "Right answers and the answer's probability against the number of examples, mean over "
        "relations with 95 % intervals."
    )
    figure = Figure("examples", caption, chart.draw)
    return Section("What examples do", "", (shown_prompts, table), claims, (figure,))


# --- what the new heads do -----------------------------------------------------------------------


def _head_section(style: _Style) -> Section:
    tables = (_cost_table(style), _circuit_table(style), _attention_table(style))
    text = (
        f"Circuits of {len(style.heads)} relations, of which at least eight facts are right "
        f"{style.after}. The highest induction score of any head of the model is "
        f"{shown(max(h['induction']['best_score'] for h in style.heads.values()), 3)}."
    )
    if not style.is_enough:
        text += " Too few relations for sentences about them."
    return Section(
        f"Heads that come in: asked {style.asked}",
        text,
        tables,
        style.other_claims() if style.is_enough else (),
        (_cost_figure(style),),
    )


def _cost_figure(style: _Style) -> Figure:
    conditions = {"with_examples": style.after, "without_examples": "without examples"}
    series = {
        label: [average(style.mean(condition, "probability", who)) for condition in conditions]
        for who, label in LABELS.items()
    }
    chart = Bars(
        list(conditions.values()),
        series,
        "probability of the answer",
        muted=(LABELS["random"],),
        y_limits=(0.0, 1.05),
    )
    caption = (
        f"The answer's probability, asked {style.asked}, with some heads silenced: those new with "
        "examples, as many whose score grew most, as many others of the circuit with examples, and "
        "as many random ones. Mean over relations with 95 % intervals."
    )
    return Figure(f"heads_{style.name}", caption, chart.draw)


def _cost_table(style: _Style) -> Table:
    columns = ("relation", "facts", "new heads", *LABELS.values())
    body: list[list[Any]] = []
    for key, heads in style.heads.items():
        shares = heads["with_examples"]["probability"]
        values = [average(shares[who]) for who in LABELS]
        body.append([key, len(shares["whole"]), len(heads["new"]), *values])
    means = [average(style.mean("with_examples", "probability", who)) for who in LABELS]
    mean_new = float(style.over(lambda heads: len(heads["new"])).mean())
    facts = sum(row[1] for row in body)
    body.append(["all", facts, round(mean_new, 1), *means])
    return Table(
        f"table2_{style.name}",
        columns,
        body,
        title=f"Probability of the answer {style.after}, with some heads silenced",
        note="In brackets: 95 % intervals over facts, in the last row over relations. Grown heads: "
        "as many as are new, those whose score grew most. Circuit heads: as many others of the "
        "circuit with examples.",
        percent=set(LABELS.values()),
        digits={"new heads": 1},
        totals=("all",),
    )


def _circuit_table(style: _Style) -> Table:
    return Table.of(
        f"circuits_{style.name}",
        style.heads,
        {
            "relation": lambda name, _: name,
            "new heads": lambda _, heads: ", ".join(heads["new"]) or "none",
            "new by chance": lambda _, heads: heads["new_by_chance"],
            "heads that grew most": lambda _, heads: ", ".join(heads["grown"]),
            "edges in common": lambda _, heads: heads["jaccard"],
            "two halves": lambda _, heads: heads["floor"],
            "nodes in common": lambda _, heads: heads["node_jaccard"],
            "two halves, nodes": lambda _, heads: heads["node_floor"],
        },
        title="The circuit with examples beside the one without",
        note="In common: Jaccard index. Two halves: of two circuits without examples, each from "
        "one half of the facts: what a change of facts alone does.",
        default_digits=2,
        long=True,
    )


def _attention_table(style: _Style) -> Table:
    spans = list(next(iter(style.heads.values()))["attention"])

    def value(span: str, group: str) -> Interval:
        return average(style.over(lambda heads: heads["attention"][span][group]))

    body: list[list[Any]] = [
        [f"attention: {span}", *(value(span, group) for group in GROUPS)] for span in spans
    ]
    scores = [
        average(style.over(lambda heads, group=group: heads["induction"][group]))  # type: ignore[misc]
        for group in GROUPS
    ]
    body.append(["induction score", *scores])
    even = float(style.over(lambda heads: heads["induction"]["even"]).mean())
    return Table(
        f"attention_{style.name}",
        ("", *GROUPS.values()),
        body,
        title="Where heads look at the last token, and whether they are induction heads",
        note="Share of value-weighted attention; objects and subjects of the examples are parts of "
        "the examples. Mean over heads, then over relations, with 95 % intervals over relations. "
        f"A head that attends evenly has an induction score of {shown(even, 3)}.",
        default_digits=3,
    )
