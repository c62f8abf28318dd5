"""The report of `multihop`: tables, sentences and figures from the stored parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.plain import number
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.claims import FEWEST, Claim, Verdict, average, difference, share
from experiments.analyses.engine.tables import Table
from viz.paper.charts import Bars

REVERSAL = "backwards: "
"""What the key of a relation that is asked backwards begins with."""
BACKWARDS = "backwards"
CLEAR = 2.0
"""Logits between whole model and nothing kept, from which on faithfulness is given."""
LABELS = {
    "nested": "in one question",
    "follow": "with a pronoun",
    "written": "written out",
    BACKWARDS: "backwards",
}
BESIDE = {
    "hops": "circuits of the hops",
    "unrelated": "circuits of unrelated relations",
    "again": "same question, other facts",
    "random": "random circuits",
}
METHOD = (
    "A chain is two relations of which the second is asked about the first one's object, the "
    "bridge; both facts must be known. It is asked in one question that never names the bridge; "
    "after the first hop has been stated, by a pronoun; and with both hops written out. The last "
    "two put the bridge into the prompt: a model that cannot find it by itself can still go on "
    "from there. With `--shots` as many chained facts stand answered before every question, in its "
    "form, of which neither subject nor bridge is asked about. Chance is how often an answer would "
    "be right for another fact of the chain.",
    "Every question's circuit is found with EAP-IG on half of its facts, whether they are answered "
    "right or not, as the difference of logits of the two answers; the hops' circuits are those of "
    "their relations in their own wordings. Overlap is the share of the question's nodes and edges "
    "that the hops' circuits hold together.",
    "Three controls stand beside it: random connected circuits of the hops' sizes; the circuits of "
    "relations about other kinds of subjects, two at a time and together as large as the hops', "
    "which hold whatever all circuits of the model share; and the circuit of the same question on "
    "the other half of the facts, a single one, which shows what the choice of facts alone does. "
    "Unions of circuits are also run on the other half: faithfulness is 1 where they tell the two "
    "answers apart as well as the model does, 0 where as badly as with every edge cut. The halves "
    "have no bridge in common, partners of prompts are of the same half, and the circuits of the "
    "hops were found on facts about none of the other half's subjects and bridges.",
    "Relations in which an object has one subject are asked backwards as well, from the object; "
    "there is one hop then, the relation itself.",
    "Intervals resample chains, or relations that are asked backwards.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    forms = {str(form): _Form(str(form), parts) for form in config.forms}
    backwards = _Form(BACKWARDS, parts)
    used = [form for form in (*forms.values(), backwards) if form.parts]
    chained = [form for form in used if form.name != BACKWARDS]
    answer = [claim for form in chained for claim in form.answer_claims()[:1]]
    answer += [claim for form in chained for claim in form.overlap_claims()[1:2]]
    sections = [_answer_section(used), _overlap_section(used), _function_section(used)]
    return Report(_lead(used), tuple(sections), tuple(answer), METHOD)


class _Form:
    """All questions of one form, by chain or relation."""

    def __init__(self, name: str, parts: Mapping[str, Part]) -> None:
        self.name = name
        self.label = LABELS[name]
        self.parts = {
            key.removeprefix(REVERSAL): part["forms"][name]
            for key, part in parts.items()
            if part["forms"].get(name)
        }
        self.over = "relations" if name == BACKWARDS else "chains"

    @property
    def is_enough(self) -> bool:
        """Whether there are questions enough for a sentence."""
        return len(self.parts) >= FEWEST

    @property
    def right(self) -> np.ndarray:
        """Share of right answers, one a chain."""
        return np.array([np.mean(part["right"]) for part in self.parts.values()])

    @property
    def chance(self) -> np.ndarray:
        """What chance would be, one a chain."""
        return np.array([number(part["chance"]) for part in self.parts.values()])

    def shares(self, beside: str, what: str) -> np.ndarray:
        """Share of the circuit's nodes or edges that other circuits hold, one a chain."""
        return np.array([number(part[beside][what]) for part in self.parts.values()])

    def function(self, what: str) -> np.ndarray:
        """Faithfulness of circuits on the question, one a chain.

        NaN where the model itself prefers the wrong answer or hardly tells them apart: a ratio to
        next to nothing says nothing.
        """
        found = []
        for part in self.parts.values():
            each = {name: number(value) for name, value in part["function"].items()}
            clear = each["whole"] > 0 and each["whole"] - each["empty"] >= CLEAR
            found.append(each[what] if clear or what in ("whole", "empty") else np.nan)
        return np.array(found)

    def answer_claims(self) -> tuple[Claim, ...]:
        """Whether the model answers the question at all."""
        hops = "" if self.name == BACKWARDS else " two hops"
        what = f"asked {self.label}, the model answers{hops} [more|less] often than by chance"
        return self._claimed(what, self.right, self.chance, scale=100)

    def overlap_claims(self) -> tuple[Claim, ...]:
        """Whether hops hold more of the circuit's edges than the controls do."""
        held = f"{self._hops('holds', 'hold')} [more|fewer] of the question's edges than"
        what = f"asked {self.label}, {held}"
        hops = self.shares("hops", "edges")
        random, unrelated = (self.shares(beside, "edges") for beside in ("random", "unrelated"))
        return (
            *self._claimed(f"{what} random circuits of their size", hops, random, scale=100),
            *self._claimed(f"{what} circuits of unrelated relations", hops, unrelated, scale=100),
        )

    def function_claims(self) -> tuple[Claim, ...]:
        """Whether hops alone answer more of the question than unrelated circuits do."""
        return self._claimed(
            f"asked {self.label}, {self._hops('is', 'are')} [more|less] faithful to the question "
            "than circuits of unrelated relations",
            self.function("hops"),
            self.function("unrelated"),
            unit="",
        )

    def _hops(self, one: str, several: str) -> str:
        """The hops' circuits with a verb."""
        if self.name == BACKWARDS:
            return f"the relation's own circuit {one}"
        return f"the hops' circuits {several}"

    def _claimed(self, what: str, *sides: np.ndarray, **options: Any) -> tuple[Claim, ...]:
        """A claim, where there are questions enough for one."""
        return (difference(what, *sides, over=self.over, **options),) if self.is_enough else ()


# --- what the model answers ----------------------------------------------------------------------


def _lead(forms: Sequence[_Form]) -> str:
    texts = []
    for form in forms:
        texts.append(
            f"{100 * form.right.mean():.0f} % {form.label} "
            f"(chance {100 * form.chance.mean():.0f} %)"
        )
    if not texts:
        return "No two-hop question could be asked."
    text = f"Right answers to two-hop questions and reversed ones: {', '.join(texts)}."
    chained = [form for form in forms if form.name != BACKWARDS]
    if chained:
        best = max(chained, key=lambda form: float(form.right.mean()))
        held = {name: 100 * np.nanmean(best.shares(name, "edges")) for name in BESIDE}
        text += (
            f" Asked {best.label}, the hops' circuits hold {held['hops']:.0f} % of the question's "
            f"edges, circuits of unrelated relations {held['unrelated']:.0f} %, random ones "
            f"{held['random']:.0f} %"
        )
        text += _judged(best)
    return text


def _judged(form: _Form) -> str:
    """What belongs to these hops and not to any circuit of the model."""
    if not form.is_enough:
        return "."
    claim = form.overlap_claims()[1]
    if claim.verdict == Verdict.SUPPORTED:
        return f": {claim.estimate.value:.0f} points of the overlap belong to these hops."
    return ": there is no evidence that the overlap is more than all circuits of the model share."


def _answer_section(forms: Sequence[_Form]) -> Section:
    body: list[list[Any]] = [
        [
            name,
            form.label,
            len(part["right"]),
            share(np.array(part["right"]) > 0),
            number(part["chance"]),
        ]
        for form in forms
        for name, part in form.parts.items()
    ]
    table = Table(
        "answers",
        ("chain or relation", "asked", "facts", "right", "chance"),
        body,
        title="Right answers",
        note="In brackets: Wilson intervals over facts. Chance: an answer that is right for "
        "another fact of the chain.",
        percent={"right", "chance"},
        digits={"right": 0, "chance": 0},
        long=len(body) > 12,
    )
    examples = Table(
        "questions",
        ("asked", "a question"),
        [[form.label, next(iter(form.parts.values()))["example"]] for form in forms],
        title="How it is asked",
    )
    chart = Bars(
        [form.label for form in forms],
        {
            "right answers": [average(form.right) for form in forms],
            "chance": [average(form.chance) for form in forms],
        },
        "share of the questions",
        muted=("chance",),
        y_limits=(0.0, 1.05),
        width=4.4,
    )
    caption = (
        "Right answers by form of the question, mean over chains (backwards: relations) with 95 % "
        "intervals, beside chance."
    )
    claims = tuple(claim for form in forms for claim in form.answer_claims())
    top = tuple(claim for claim in claims if "backwards" in claim.sentence.lower())
    figure = Figure("answers", caption, chart.draw)
    return Section("What the model answers", "", (examples, table), top, (figure,))


# --- overlap and function ------------------------------------------------------------------------


def _overlap_section(forms: Sequence[_Form]) -> Section:
    columns = ("asked", "of its", *BESIDE.values())
    body: list[list[Any]] = [
        [form.label, what, *(average(form.shares(beside, what)) for beside in BESIDE)]
        for form in forms
        for what in ("nodes", "edges")
    ]
    table = Table(
        "table5",
        columns,
        body,
        title="How much of a question's circuit other circuits hold",
        note="Mean over chains (backwards: relations) with 95 % intervals. Yao et al. 2024 report "
        "71 % of the nodes and 49 % of the edges in GPT-2 medium, without such controls.",
        percent=set(BESIDE.values()),
        digits=dict.fromkeys(BESIDE.values(), 0),
    )
    detail = Table(
        "overlap",
        ("chain or relation", "asked", "edges", "first hop", "second hop", *BESIDE.values()),
        [
            [
                name,
                form.label,
                part["edges"],
                *_both(part["hops"]["each_edges"]),
                *(number(part[beside]["edges"]) for beside in BESIDE),
            ]
            for form in forms
            for name, part in form.parts.items()
        ],
        title="Shares of edges by chain",
        percent={"first hop", "second hop", *BESIDE.values()},
        digits=dict.fromkeys(("first hop", "second hop", *BESIDE.values()), 0),
        long=True,
    )
    chart = Bars(
        [form.label for form in forms],
        {
            label: [average(form.shares(beside, "edges")) for form in forms]
            for beside, label in BESIDE.items()
        },
        "share of the question's edges",
        muted=(BESIDE["random"],),
        y_limits=(0.0, 1.05),
    )
    caption = (
        "Share of the edges of a question's circuit that other circuits hold: those of its hops, "
        "those of as many unrelated relations, that of the same question on other facts, and "
        "random ones of the hops' sizes. Mean with 95 % intervals."
    )
    claims = tuple(
        claim
        for form in forms
        for claim in (
            form.overlap_claims() if form.name == BACKWARDS else form.overlap_claims()[:1]
        )
    )
    figure = Figure("overlap", caption, chart.draw)
    return Section("What the circuits share", "", (table, detail), claims, (figure,))


def _both(shares: Sequence[float]) -> list[float | None]:
    return [number(shares[0]), number(shares[1]) if len(shares) > 1 else None]


def _function_section(forms: Sequence[_Form]) -> Section:
    names = {"own": "its own circuit", "hops": BESIDE["hops"], "unrelated": BESIDE["unrelated"]}
    names["random"] = BESIDE["random"]
    columns = ("asked", "whole model", "nothing kept", *names.values())
    body: list[list[Any]] = [
        [
            form.label,
            average(form.function("whole")),
            average(form.function("empty")),
            *(average(form.function(name)) for name in names),
        ]
        for form in forms
    ]
    table = Table(
        "function",
        columns,
        body,
        title="Faithfulness of circuits to the question, on facts that found none of them",
        note="Whole model and nothing kept: mean difference of the two answers' logits. Where the "
        "model itself prefers the wrong answer, or the two lie less than "
        f"{CLEAR:.0f} logits apart, faithfulness is left out. All but the question's own circuit "
        "are as large as the hops' together.",
        default_digits=2,
    )
    claims = tuple(claim for form in forms for claim in form.function_claims())
    return Section("What the circuits do alone", _function_text(forms), (table,), claims)


def _function_text(forms: Sequence[_Form]) -> str:
    lost = [form for form in forms if form.right.mean() <= form.chance.mean()]
    if not lost:
        return ""
    return (
        f"Asked {' and '.join(form.label for form in lost)}, the model is right no more often than "
        "by chance: circuits there tell the two answers apart, and answer no question."
    )
