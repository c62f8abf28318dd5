"""The reports of KnowUnDo and TOFU: what is forgotten, what is kept, and what chance would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from circuits.base.intervals import Interval
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, difference
from experiments.analyses.engine.names import named
from experiments.analyses.engine.tables import Table
from experiments.benchmarks.unlearning import circuits
from experiments.benchmarks.unlearning.cases import (
    AUTHORS,
    FORGET,
    FORGET_VAL,
    RETAIN_VAL,
    TOFU_FORGET,
    TOFU_RETAIN,
    WORLD,
)
from experiments.benchmarks.unlearning.measures import Scored, forget_quality, truthful
from experiments.benchmarks.unlearning.scoring import NEITHER
from experiments.benchmarks.unlearning.stored import (
    AFTER,
    CONTROL,
    KNOWN,
    Domain,
    domains,
    mean,
    perplexity_interval,
    scored_from,
    utility_interval,
)

OVER = "rows"
KEPT = (TOFU_RETAIN, AUTHORS, WORLD)
"""The sets of model utility."""
CONTROLS = (
    "A random change has the singular values of the method's change at every weight and says "
    "nothing; facts of neither set are atlas facts that the model knew and no method saw. "
    "Intervals are 95 % bootstrap intervals over rows, of one unlearning.",
)
KNOW_UN_DO_METHOD = (
    "Unlearn success is 100 minus the token accuracy on the unlearn validation set, retention "
    "success the token accuracy on the retention validation set; token accuracy is the share of an "
    "answer's tokens that are the argmax, each after the answer's own tokens before it.",
    "Perplexity is exp(-mean of the rows' mean log-probability), as the published script has it: "
    "each row counts alike. Perplexity by token counts each token alike, as the term is defined.",
    "ROUGE-L recall: longest common subsequence of the words of the greedy answer and of the true "
    "one, as a share of the latter's; the greedy answer has as many tokens as the true one. Words "
    "are not stemmed. KnowUnDo's published script has no ROUGE.",
    *CONTROLS,
)
TOFU_METHOD = (
    "Probability is P(answer|question)^(1/tokens); among real authors and world facts its share of "
    "that of all answers, right and wrong. Truth ratio: mean of P^(1/tokens) over the wrong "
    "answers, over that of the paraphrased right one (Maini et al.): low where the "
    "model knows better. The published script takes a geometric mean over the wrong answers; its "
    "numbers stand beside as (script).",
    "Forget quality is the p of the two-sample Kolmogorov-Smirnov test between truth ratios of the "
    "forget set in this model and in one that never saw it. Model utility is the harmonic mean of "
    "probability, ROUGE-L recall and max(0, 1 - truth ratio) on the sets to keep that are there.",
    "ROUGE-L recall is of the greedy answer of as many tokens as the true one; words are not "
    "stemmed, which the published script does.",
    *CONTROLS,
)


# --- KnowUnDo ------------------------------------------------------------------------------------


def know_un_do_report(parts: Mapping[str, Part]) -> Report:
    """KnowUnDo's page."""
    found = domains(parts)
    sections: list[Section] = []
    answer: list[Claim] = []
    leads: list[str] = []
    for each in found:
        prefix = f"in {each.name}, " if len(found) > 1 else ""
        first, claims = _claims(each, prefix, FORGET_VAL, RETAIN_VAL, "accuracy", "token accuracy")
        sections.append(
            Section(
                f"What is forgotten and kept in {each.name}",
                each.notes(FORGET_VAL),
                (successes(each), _texts(each)),
                claims,
            )
        )
        sections += circuits.section(each)
        answer += first
        lead = prefix + _lead(each, FORGET_VAL, RETAIN_VAL, "accuracy", "tokens")
        leads.append(lead[0].upper() + lead[1:])
    return Report(" ".join(leads), tuple(sections), tuple(answer), KNOW_UN_DO_METHOD)


def successes(domain: Domain) -> Table:
    """Tian et al.'s successes; their script gives the accuracy of both sets.

    Token accuracy of a row: the share of the answer's tokens that are the argmax, each after the
    answer's own tokens before it. Unlearn success is 1 minus its mean.
    """
    columns = ("unlearn success", "retention success", "trained questions", NEITHER)
    rows = [
        [
            label,
            mean(sets, FORGET_VAL, "accuracy", lambda x: 1 - x),
            *(mean(sets, split, "accuracy") for split in (RETAIN_VAL, FORGET, NEITHER)),
            status,
        ]
        for label, sets, status in domain.sides()
    ]
    return Table(
        f"{domain.name}-success",
        ("method", *columns, "outcome"),
        rows,
        title=f"{domain.name}: {_count(domain, FORGET_VAL)} unlearn and "
        f"{_count(domain, RETAIN_VAL)} retention validation rows",
        note="Trained questions: token accuracy on the questions that were unlearned; neither set: "
        "token accuracy on facts that no method saw.",
        percent=set(columns),
    )


def _texts(domain: Domain) -> Table:
    splits = {FORGET_VAL: "unlearn", RETAIN_VAL: "retention", NEITHER: NEITHER}
    recall = tuple(f"ROUGE-L, {short}" for short in splits.values())
    plain = tuple(f"perplexity, {short}" for short in splits.values())
    by_token = tuple(f"by token, {short}" for short in splits.values())
    rows = [
        [
            label,
            *(mean(sets, split, "rouge") for split in splits),
            *(perplexity_interval(sets, split, by_token=False) for split in splits),
            *(perplexity_interval(sets, split, by_token=True) for split in splits),
        ]
        for label, sets, _ in domain.sides()
    ]
    return Table(
        f"{domain.name}-answers",
        ("method", *recall, *plain, *by_token),
        rows,
        title=f"{domain.name}: greedy answers and perplexity",
        note="Perplexity as published counts each row alike; by token, each token.",
        percent=set(recall),
        default_digits=2,
    )


# --- TOFU ----------------------------------------------------------------------------------------


def tofu_report(parts: Mapping[str, Part]) -> Report:
    """TOFU's page."""
    (found,) = domains(parts)
    stored = next(iter(parts.values()))["retain_model"]
    retained = scored_from({k: v for k, v in stored.items() if k != "name"}) if stored else None
    name = stored["name"] if stored else ""
    first, claims = _claims(found, "", TOFU_FORGET, TOFU_RETAIN, "probability", "probability")
    lead = _lead(found, TOFU_FORGET, TOFU_RETAIN, "probability", "probability")
    quality = (
        f"Forget quality compares with {name}."
        if retained
        else "Forget quality is not computed: it needs a model that never saw the forget set "
        "(setting retain_model=NAME)."
    )
    section = Section(
        "What is forgotten",
        f"{found.notes(TOFU_FORGET)} {quality}".strip(),
        (_forgotten(found, retained, name),),
        claims,
    )
    kept = Section("What is kept", "", (_kept(found),))
    sections = (section, kept, *circuits.section(found))
    return Report(f"{lead[0].upper()}{lead[1:]} {quality}", sections, first, TOFU_METHOD)


def _forgotten(domain: Domain, retained: Scored | None, name: str) -> Table:
    columns = ("probability", "ROUGE-L", "truth ratio", "truth ratio (script)")
    tests = ("forget quality", "forget quality (script)")
    shown = [*domain.sides()]
    if retained:
        shown.append((f"retain model {name}", {TOFU_FORGET: retained}, ""))
    rows = []
    for label, sets, status in shown:
        values: list[object] = [
            mean(sets, TOFU_FORGET, column)
            for column in ("probability", "rouge", "truth_ratio", "truth_ratio_script")
        ]
        rows.append([label, *values, *_qualities(sets, retained), status])
    return Table(
        "tofu-forget",
        ("method", *columns, *tests, "outcome"),
        rows,
        title=f"The forget set, {_count(domain, TOFU_FORGET)} rows",
        percent=set(columns[:2]),
    )


def _qualities(sets: Mapping[str, Scored], retained: Scored | None) -> list[float | str | None]:
    if retained is None:
        return ["not computed"] * 2
    if TOFU_FORGET not in sets:
        return [None] * 2
    own = sets[TOFU_FORGET]
    return [
        forget_quality(own.truth_ratio, retained.truth_ratio),
        forget_quality(own.truth_ratio_script, retained.truth_ratio_script),
    ]


def _kept(domain: Domain) -> Table:
    there = [split for split in KEPT if split in domain.before]
    names = {TOFU_RETAIN: "retain", AUTHORS: "authors", WORLD: "world"}
    columns = [f"{what}, {names[s]}" for s in there for what in ("P", "ROUGE-L", "truthful")]
    rows = []
    for label, sets, _ in domain.sides():
        values: list[Interval] = []
        for split in there:
            values += [mean(sets, split, "probability"), mean(sets, split, "rouge")]
            values.append(mean(sets, split, "truth_ratio", truthful))
        utilities = [utility_interval(sets, there, script) for script in (False, True)]
        rows.append([label, *utilities, *values, mean(sets, NEITHER, "accuracy")])
    absent = [names[split] for split in KEPT if split not in there]
    lacking = [
        f"{what}, {names[split]}"
        for split in there
        for what, values in (
            ("P", domain.before[split].probability),
            ("truthful", domain.before[split].truth_ratio),
        )
        if not np.isfinite(values).any()
    ]
    note = "Truthful is max(0, 1 - truth ratio); neither set: token accuracy." + (
        f" Utility is without the sets that are absent: {', '.join(absent)}." if absent else ""
    )
    if lacking:
        note += f" Utility is without what the file has no other answers for: {'; '.join(lacking)}."
    titles = ("method", "utility", "utility (script)", *columns, NEITHER)
    return Table(
        "tofu-kept",
        titles,
        rows,
        title="Model utility and its parts",
        note=note,
        percent=set(titles[1:]),
    )


# --- both ----------------------------------------------------------------------------------------


def _claims(
    domain: Domain, prefix: str, forget: str, keep: str, column: str, what: str
) -> tuple[tuple[Claim, ...], tuple[Claim, ...]]:
    """The claims for the top of the page, and those with the random change."""
    first, rest = [], []
    for method in domain.methods:
        name = prefix + named(method)
        lost, kept, other = (
            domain.lost(method, AFTER, split, column) for split in (forget, keep, NEITHER)
        )
        beside, spared = (domain.lost(method, CONTROL, s, column) for s in (forget, NEITHER))
        first.append(
            difference(
                f"{name} takes [more|less] {what} from what is to be forgotten than from what is "
                "to be kept",
                lost,
                kept,
                paired=False,
                scale=100,
                over=OVER,
            )
        )
        rest.append(
            difference(
                f"{name} takes [more|less] {what} from what is to be forgotten than a random "
                "change as large",
                lost,
                beside,
                paired=len(lost) == len(beside),
                scale=100,
                over=OVER,
            )
        )
        if len(other) and len(spared):
            rest.append(
                difference(
                    f"{name} takes [more|less] {what} from facts of neither set than a random "
                    "change as large",
                    other,
                    spared,
                    scale=100,
                    over=OVER,
                )
            )
    return tuple(first), tuple(rest)


def _lead(domain: Domain, forget: str, keep: str, column: str, unit: str) -> str:
    """What each method leaves of what is to be forgotten and kept, in words."""
    before = domain.before
    start = (
        f"the unedited model gives the answers to forget {_percent(before, forget, column)} "
        f"{unit} and those to keep {_percent(before, keep, column)}"
        if unit == "probability"
        else f"the unedited model says {_percent(before, forget, column)} of the {unit} to forget "
        f"and {_percent(before, keep, column)} of those to keep"
    )
    left: Sequence[str] = [
        f"{named(m)} {_percent(after, forget, column)} and {_percent(after, keep, column)}"
        for m in domain.methods
        if (after := domain.side(m, AFTER))
    ]
    known = domain.knew(forget)
    start += "" if known >= KNOWN else ", so that it did not know what is to be forgotten"
    if not left:
        return f"{start}."
    return f"{start}. Left of the two are, by method: {'; '.join(left)}."


def _percent(sets: Mapping[str, Scored], split: str, column: str) -> str:
    value = mean(sets, split, column).value
    return f"{100 * value:.0f} %" if np.isfinite(value) else "nothing that can be scored"


def _count(domain: Domain, split: str) -> int:
    return len(domain.before[split].rouge) if split in domain.before else 0
