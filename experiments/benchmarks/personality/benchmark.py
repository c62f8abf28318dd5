"""PersonalityEdit (Mao et al. 2023): can a model be made to speak of one topic with another trait?

Each case is edited alone on the unedited model: its first question is answered as the target trait
would. The answers of all traits are read before, after, and with a random change of the edit's
size; so are those on the next topic, which should stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.base.options import Options, option
from circuits.edits.judge.generation import Speaker, ngram_entropy
from circuits.edits.methods.registry import EditMethod
from circuits.model.model import Model
from experiments.analyses.engine.base import Part
from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT, Bench, Benchmark, edit_or
from experiments.benchmarks.personality.cases import TRAITS, PersonalityCase, read_cases
from experiments.benchmarks.personality.classifiers import (
    TraitClassifier,
    TraitJudge,
    trait_probabilities,
    trait_scores,
)
from experiments.benchmarks.personality.measures import (
    Read,
    cross_entropy,
    drawdown,
    editing_success,
    level,
    published_levels,
    read,
)
from experiments.benchmarks.personality.report import BEFORE, report
from experiments.benchmarks.replies.changes import AFTER, applied, changed
from experiments.benchmarks.replies.spoken import length, spoken


@dataclass(frozen=True)
class Settings(Options):
    """`tokens` is the generated text's length, as published; never more than half of what the
    model holds. Without `classifier` there is no Acc and no TPEI, without `judge` no PAE.
    """

    classifier: TraitClassifier | None = option(None, "who tells a text's trait")
    judge: TraitJudge | None = option(None, "who scores how well a text shows a trait, 1 to 5")
    tokens: int = option(60, "length of a text", low=1)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a model makes of a case: its answers by trait, those on the next topic, and a text."""

    answers: Mapping[str, Sequence[Read]]
    other: Sequence[Read]
    said: str


def compute(bench: Bench, case: PersonalityCase, method: str) -> Part:
    """One case by one method."""
    settings: Settings = bench.settings
    speaker = bench.speaker
    before = _seen(bench.model, speaker, case, settings.tokens)
    sides = {BEFORE: before}
    if method == IN_CONTEXT:
        shown = f"{case.topic.prompt} {case.request.target}\n\n"
        record: Mapping[str, Any] = {"status": IN_CONTEXT, "norm": 0.0}
        sides[AFTER] = _seen(bench.model, speaker, case, settings.tokens, shown)
    else:
        change = changed(bench, case.request, method)
        record = change.record
        for side, delta in change.deltas.items():
            with applied(delta, bench.model):
                sides[side] = (
                    before if delta is None else _seen(bench.model, speaker, case, settings.tokens)
                )
    texts = _texts(bench, settings, case.target, {name: each.said for name, each in sides.items()})
    return {
        "topic": case.topic.name,
        "target": case.target,
        "edit": record,
        "classifier": settings.classifier and str(settings.classifier),
        "judge": settings.judge and str(settings.judge),
        "tokens": length(speaker, settings.tokens),
        "sides": {
            name: {**_success(case.target, before, side), **texts[name]}
            for name, side in sides.items()
        },
    }


def _seen(
    model: Model, speaker: Speaker, case: PersonalityCase, n_tokens: int, shown: str = ""
) -> _Seen:
    """The model as it is now, with an example before every prompt, or none."""
    answers = {trait: read(model, case.topic.asked(trait), shown) for trait in TRAITS}
    asked = (
        [pair for trait in TRAITS for pair in case.other.asked(trait)]
        if case.other is not None
        else []
    )
    (said,) = spoken(speaker, [shown + case.topic.prompt], length(speaker, n_tokens))
    return _Seen(answers, read(model, asked, shown), said.split("\n")[0].strip())


def _success(target: str, before: _Seen, after: _Seen) -> dict[str, float]:
    """Editing success in three ways, and DD.

    `unseen` is of the target trait's answers but the one that was edited in.
    """
    others = [each for trait in TRAITS if trait != target for each in after.answers[trait]]
    old, new = before.answers[target], after.answers[target]
    late, late_others = published_levels(new, others)
    late_before, _ = published_levels(
        old, [each for trait in TRAITS if trait != target for each in before.answers[trait]]
    )
    rivals = level(others)
    return {
        "es_published": editing_success(late, late_others, late_before),
        "es": editing_success(level(new), rivals, level(old)),
        "es_unseen": editing_success(level(new[1:]), rivals, level(old[1:])),
        "target": level(new),
        "others": rivals,
        "dd": drawdown(before.other, after.other),
    }


def _texts(
    bench: Bench, settings: Settings, target: str, said: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Of each side's text: its entropy in bits, and what classifier and judge make of it."""
    place, texts = TRAITS.index(target), list(said.values())
    found: dict[str, dict[str, Any]] = {
        name: {"text": text, "entropy": ngram_entropy(text)} for name, text in said.items()
    }
    if settings.classifier is not None:
        load = settings.classifier.load
        classifier = bench.once(("trait classifier", str(settings.classifier)), load)
        rows = trait_probabilities(classifier, texts)
        for each, row in zip(found.values(), rows, strict=True):
            each["hit"] = float(np.argmax(row) == place)
            each["ce"] = cross_entropy(row, place)
    if settings.judge is not None:
        judge = bench.once(("trait judge", str(settings.judge)), settings.judge.load)
        scores = trait_scores(judge, texts, target)
        for each, score in zip(found.values(), scores.tolist(), strict=True):
            each["score"] = score
    return found


PERSONALITY = Benchmark(
    name="personality",
    title="PersonalityEdit: a trait edited into what is said of a topic",
    question="Does an edit make a model speak of a topic with another trait, and of others as "
    "before?",
    published="https://github.com/zjunlp/EasyEdit (PersonalityEdit, on Google Drive)",
    licence="not stated with the data",
    form="a JSON list of PersonalityEdit's records, or a folder of such files",
    fixture="personality.json",
    methods=(
        NO_EDIT,
        IN_CONTEXT,
        str(EditMethod.FT_M),
        str(EditMethod.ROME),
        str(EditMethod.MEMIT),
    ),
    read=read_cases,
    compute=compute,
    report=report,
    edit_of=edit_or(NO_EDIT, IN_CONTEXT),
    settings=Settings,
    version=3,
)
