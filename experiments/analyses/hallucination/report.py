"""The report of `hallucination`: tables, sentences and figures from the stored parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from experiments.analyses.engine.base import Figure, Part, Report, Section
from experiments.analyses.engine.by_layer import Parting, curve, parting, powers_of_ten, state_name
from experiments.analyses.engine.claims import Claim, Verdict, average, difference, share
from experiments.analyses.engine.tables import Table, shown
from experiments.analyses.hallucination.circuit_report import (
    edge_section,
    writer_claims,
    writer_section,
)
from experiments.analyses.hallucination.numbers import (
    Rows,
    curve_rows,
    gather,
    kind_rows,
    repaired_by_layer,
)
from experiments.analyses.hallucination.recall import Kind
from experiments.analyses.hallucination.repair import OTHER_LAST
from experiments.analyses.hallucination.repair_report import (
    reading_claim,
    repair_claims,
    repair_section,
    subject_claim,
)
from viz.paper.charts import Lines

OVER = "relations"
SHOWN_CASES = 10

METHOD = (
    "Every fact is asked in training wordings and in held-out ones. A fact that is answered wrong "
    "in one wording and right in another is a case: the wrong prompt, the likeliest right prompt, "
    "and, as control, the second likeliest right one. Facts that no wording gets right are tried "
    "after examples in the same words. A relation's cases are drawn at random.",
    "Curves are the logit lens at the last token. Two curves part from the first layer after which "
    "they differ in every layer (sign-flip test over relations, Benjamini-Hochberg over layers).",
    "What a head or MLP writes is its direct part in the logit of the true object over that of the "
    "wrong answer, with the final norm's scale kept. Roles of heads are those in questions that "
    "the model answers right; relations without mover heads tell nothing of kinds of heads. Edge "
    "scores are EAP-IG's for the same difference of logits, with another subject's prompt of as "
    "many tokens as the corrupted one; false discoveries are controlled over all edges of a "
    "relation, with errors clustered by fact and by corrupted subject.",
    "Transplants put a right run's state, or what chosen heads and MLPs wrote at the last token, "
    "into the wrong run; an answer is repaired where the true object's first token comes out on "
    "top. Blame is laid on one half of a relation's cases and tried on the other. Random sets are "
    "drawn from all heads and MLPs; matched ones are of the same kinds and layers as the blamed.",
    "Intervals resample relations with all their cases, as cases of a relation share wordings.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    rows = gather(parts)
    counted = _counts(parts)
    sections = [_wrong_section(parts, rows)]
    if not rows.relations:
        lead = f"{counted} No relation has enough of these to follow them."
        return Report(lead, tuple(sections), (), METHOD)
    cause, repairs = _cause(rows), repair_claims(rows)
    sections.append(_curve_section(rows))
    answer = (*repairs[:2], *_kind_claims(rows))
    if rows.paired_relations:
        sections += [writer_section(rows), edge_section(parts, config.level)]
        answer = (*answer, *writer_claims(rows)[:1])
    sections.append(repair_section(rows, repairs[2:]))
    return Report(f"{counted} {cause}", tuple(sections), answer, METHOD)


# --- what goes wrong -----------------------------------------------------------------------------


def _counts(parts: Mapping[str, Part]) -> str:
    total = {
        name: sum(part["counts"][name] for part in parts.values())
        for name in ("questions", "wrong", "recoverable", "never")
    }
    missed = total["recoverable"] + total["never"]
    text = (
        f"Of {shown(total['questions'])} questions of {len(parts)} relations, "
        f"{shown(total['wrong'])} are answered wrong"
    )
    if not missed:
        return text + "."
    return text + (
        f"; of the {shown(missed)} facts concerned, {shown(total['recoverable'])} are answered "
        "right in another way."
    )


def _cause(rows: Rows) -> str:
    """What the transplants say is at fault; computed, and left open where they do not agree."""
    reading, recall = reading_claim(rows), subject_claim(rows)
    best = max(repaired_by_layer(rows, OTHER_LAST), key=lambda each: each.value)
    if reading.verdict == Verdict.SUPPORTED and recall.verdict == Verdict.SUPPORTED:
        return (
            f"The state at the last token of another subject's prompt in the right wording repairs "
            f"{shown(best.value, 0, 100)} % of the cases, although it does not hold their answer: "
            "what fails is mostly the reading of the question, not the recall of the fact."
        )
    if recall.verdict == Verdict.OPPOSITE:
        return (
            "The state at the subject repairs more than the question's state does: what fails is "
            "mostly the recall of the fact."
        )
    return "Whether the reading of the question or the recall of the fact fails stays open."


def _wrong_section(parts: Mapping[str, Part], rows: Rows) -> Section:
    tables = [_count_table(parts)]
    if rows.relations:
        tables = [_kind_table(rows), *tables, _case_table(parts)]
    text = "Questions asked, wrong answers, and the facts behind them."
    return Section("What goes wrong", text, tuple(tables))


def _count_table(parts: Mapping[str, Part]) -> Table:
    def share_wrong(part: Part) -> float | None:
        counts = part["counts"]
        return counts["wrong"] / counts["questions"] if counts["questions"] else None

    def counted(name: str) -> Callable[..., int]:
        return lambda _, part: part["counts"][name]

    return Table.of(
        "wrong_answers",
        dict(sorted(parts.items(), key=lambda item: -(share_wrong(item[1]) or 0))),
        {
            "relation": lambda name, _: name,
            "facts": counted("facts"),
            "questions": counted("questions"),
            "wrong": counted("wrong"),
            "share wrong": lambda _, part: share_wrong(part),
            "facts recoverable": counted("recoverable"),
            "facts never right": counted("never"),
            "followed": lambda _, part: len((part["followed"] or {"cases": ()})["cases"]),
        },
        title="Wrong answers by relation",
        percent={"share wrong"},
        note="Followed: cases that the rest of this page looks at.",
        long=len(parts) > 12,
    )


def _kind_table(rows: Rows) -> Table:
    shares = {
        "share, over cases": lambda _, hits: share(hits.astype(bool)),
        "share, over relations": lambda _, hits: average(hits, rows.relations),
    }
    return Table.of(
        "kinds",
        kind_rows(rows),
        {
            "the wrong answer is": lambda kind, _: str(kind),
            "cases": lambda _, hits: int(hits.sum()),
            **shares,
        },
        title="What is said instead",
        note="Objects are recognised by their first token; where several hold, the first counts. "
        "In brackets: Wilson intervals over cases, bootstrap intervals over relations.",
        percent=set(shares),
    )


def _case_table(parts: Mapping[str, Part]) -> Table:
    body = []
    for name, part in parts.items():
        for case in (part["followed"] or {"cases": []})["cases"][:2]:
            body.append([name, case["wrong"], case["said"].strip(), case["right"], case["object"]])
    return Table(
        "cases",
        ("relation", "asked wrong", "says", "asked right", "true object"),
        body,
        title="Two cases of each relation",
        long=len(body) > SHOWN_CASES,
    )


def _kind_claims(rows: Rows) -> tuple[Claim, ...]:
    hits = kind_rows(rows)[Kind.OTHER_RELATION]
    return (
        difference(
            "wrong answers are true of [the same|their own] subject under another relation "
            "[more|less] often than the wrong answers to other subjects would be",
            hits,
            np.array(rows.chance),
            scale=100,
            over=OVER,
            clusters=rows.relations,
        ),
    )


# --- where the curves part -----------------------------------------------------------------------


def _curve_section(rows: Rows) -> Section:
    kinds = {
        "answered right": curve_rows(rows, "right", "true"),
        "answered wrong": curve_rows(rows, "wrong", "true"),
        "others, same wording": curve_rows(rows, "others", "true"),
        "what is said instead": curve_rows(rows, "wrong", "said"),
    }
    n_states = kinds["answered right"].probability.shape[1]
    panels: dict[str, dict[str, list[Interval]]] = {"rank": {}, "probability": {}}
    for name, found in kinds.items():
        if len(found.clusters):
            logs = curve(np.log10(found.rank + 1.0), found.clusters)
            panels["rank"][name] = powers_of_ten(logs)
            panels["probability"][name] = curve(found.probability, found.clusters)
    right, wrong = kinds["answered right"], kinds["answered wrong"]
    partings = {
        "probability": parting(right.probability, wrong.probability, right.clusters),
        "rank": parting(np.log10(wrong.rank + 1.0), np.log10(right.rank + 1.0), right.clusters),
    }
    chart = Lines(
        list(range(-1, n_states - 1)),
        panels,
        "after layer (−1: embedding)",
        ("rank (1 = top)", "probability"),
        muted=("others, same wording",),
        logarithmic=("rank",),
        flipped=("rank",),
    )
    caption = (
        "The true object at the last token by layer, where the fact is answered right and where it "
        "is answered wrong, and what is said in its place. Grey: other subjects that are answered "
        "right in the wording of the wrong answer. Geometric mean of the rank, mean probability, "
        "95 % intervals over relations."
    )
    return Section(
        "Where right and wrong part",
        _parting_text(partings),
        (_curve_table(partings),),
        (),
        (Figure("curves", caption, chart.draw),),
    )


def _parting_text(partings: Mapping[str, Parting]) -> str:
    texts = []
    for name, found in partings.items():
        if found.first is None:
            texts.append(f"no evidence that right and wrong differ to the end in {name}")
        else:
            size = shown(found.differences[found.first].value, 2)
            unit = " orders of magnitude" if name == "rank" else ""
            texts.append(f"in {name} they part {found.where} (difference there {size}{unit})")
    steps = np.diff([each.value for each in partings["probability"].differences])
    texts.append(f"the difference in probability grows most in layer {int(steps.argmax())}")
    text = "; ".join(texts) + "."
    return text[0].upper() + text[1:]


def _curve_table(partings: Mapping[str, Parting]) -> Table:
    both = (partings["probability"], partings["rank"])
    body = [
        [state_name(state), p, float(p_q), r, float(r_q)]
        for state, (p, p_q, r, r_q) in enumerate(
            zip(both[0].differences, both[0].q, both[1].differences, both[1].q, strict=True)
        )
    ]
    return Table(
        "parting",
        ("state", "probability, right − wrong", "q", "log10 rank, wrong − right", "q of rank"),
        body,
        title="Difference of the true object's curves, layer by layer",
        note="q: false discovery rate over the layers. Rank 1 is the top.",
        long=True,
    )
