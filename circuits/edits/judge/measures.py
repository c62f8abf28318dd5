"""Did the edit work? What an edited model says to the prompts that judge the edit.

Each measure is given in three scorings side by side, as they disagree (Yang et al. 2025, "The
mirage of model editing": 97 % teacher-forced where free generation gives 39 %):

- `tokens`: share of the answer's tokens that are the argmax, each after the answer's own tokens
  before it (KnowEdit, EasyEdit; Zhang et al. 2024). Kind to long answers.
- `likelihood`: whether the wanted answer has a lower mean negative log-likelihood a token than its
  rival (CounterFact; Meng et al. 2022): the new object against the true one, and the reverse for
  neighbours. Kind to edits that do not reach the top.
- `generation`: whether the greedy continuation begins with the answer as whole words.

CounterFact's magnitude is how far p of the wanted answer lies above p of its rival, each the
geometric mean over its tokens; it stands beside the scorings, as it is no rate.

What is measured:

- efficacy: the request's own prompt. paraphrase: other wordings. portability: the subject by
  another name, the reverse question, one hop further, and MQuAKE's questions over several hops: a
  case counts there where any of its three wordings is answered. The new object is wanted.
- single hops: MQuAKE's chain after the edits, hop by hop. It holds the edits themselves and facts
  that no edit touches, so that it is no portability.
- locality: prompts that the edit should leave alone. Agreement (KnowEdit) is that the edited model
  says what the model said before, right or wrong; correctness that it says what is true. Both are
  given for all such prompts, for neighbours, and for other relations of the same subject.
- fluency: n-gram entropy of the prompt and what is sampled after it, to 100 tokens in all, whatever
  ends in between (ROME's evaluation, which samples after prompts of CounterFact's own).
  entropy_to_end: the same of as many tokens beyond the prompt, cut where the model ends its text. A
  model that stops early is low in the second only.
- drift: perplexity on a text, after over before. growth: norm of the changed weights.

A measure is the mean over a request's prompts, then over requests; intervals are bootstrapped over
requests. KnowEdit has the mean over a request's categories of prompts first; both are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from circuits.edits.judge.generation import Forced, says
from circuits.edits.requests import Heading
from circuits.facts.facts import ProbeKind

SCORINGS = ("tokens", "likelihood", "generation")


class Measure(StrEnum):
    """What is measured; the module says how."""

    EFFICACY = "efficacy"
    PARAPHRASE = "paraphrase"
    HELD_OUT = "held-out paraphrase"
    PORTABILITY = "portability"
    ALIAS = "alias"
    REVERSAL = "reversal"
    ONE_HOP = "one hop"
    MULTI_HOP = "multi-hop"
    MULTI_HOP_ANY = "multi-hop, any wording"
    SINGLE_HOP = "single hops"
    LOCALITY = "locality"
    LOCALITY_TRUE = "locality, correct"
    NEIGHBOURS = "neighbours"
    NEIGHBOURS_TRUE = "neighbours, correct"
    SAME_SUBJECT = "other relations"
    SAME_SUBJECT_TRUE = "other relations, correct"


AGREEMENTS = (Measure.LOCALITY, Measure.NEIGHBOURS, Measure.SAME_SUBJECT)
"""Measures of saying the same as before, which are 1 before the edit by definition."""
_WANTED = {
    Heading.HELD_OUT: Measure.HELD_OUT,
    Heading.ALIAS: Measure.ALIAS,
    Heading.REVERSAL: Measure.REVERSAL,
    Heading.ONE_HOP: Measure.ONE_HOP,
    Heading.MULTI_HOP: Measure.MULTI_HOP,
    Heading.SINGLE_HOP: Measure.SINGLE_HOP,
}
_KEPT = {
    Heading.NEIGHBOUR: (Measure.NEIGHBOURS, Measure.NEIGHBOURS_TRUE),
    Heading.SAME_SUBJECT: (Measure.SAME_SUBJECT, Measure.SAME_SUBJECT_TRUE),
}


@dataclass(frozen=True)
class Rates:
    """One measure in the three scorings, each between 0 and 1; NaN where it is not defined."""

    tokens: float
    likelihood: float
    generation: float


@dataclass(frozen=True)
class Asked:
    """A prompt as tokens, the answers that are accepted, and the rival that must not be said.

    `place` is 0 for the request's own prompt, and counts its probes from 1.
    """

    kind: ProbeKind | None
    heading: Heading | None
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    rival: tuple[int, ...] | None
    category: str = ""
    place: int = 0


@dataclass(frozen=True)
class Observation:
    """What a model says to an `Asked`: its answers forced, the rival's, and the free reply."""

    answers: tuple[Forced, ...]
    rival: Forced | None
    reply: tuple[int, ...]
    text: str

    @property
    def nll(self) -> float:
        """Of the likeliest accepted answer, mean a token, in nats."""
        return min((each.nll for each in self.answers), default=float("nan"))


def measures(
    asked: Sequence[Asked], before: Sequence[Observation], after: Sequence[Observation]
) -> dict[Measure, Rates]:
    """Means over the prompts of each measure."""
    groups: dict[Measure, list[Rates]] = {}
    for each, old, new in zip(asked, before, after, strict=True):
        for measure, rates in _rates_of(each, old, new):
            groups.setdefault(measure, []).append(rates)
    found = {measure: mean_rates(rates) for measure, rates in groups.items()}
    if Measure.MULTI_HOP in groups:
        best = (max(getattr(each, name) for each in groups[Measure.MULTI_HOP]) for name in SCORINGS)
        found[Measure.MULTI_HOP_ANY] = Rates(*best)
    return found


MAGNITUDES = (Measure.EFFICACY, Measure.PARAPHRASE, Measure.NEIGHBOURS_TRUE)
"""Measures of which CounterFact gives the magnitude."""


def magnitudes(asked: Sequence[Asked], seen: Sequence[Observation]) -> dict[Measure, float]:
    """CounterFact's magnitude (see the module's text), -1 to 1, as means over the prompts.

    Prompts without a rival have none.
    """
    groups: dict[Measure, list[float]] = {}
    for each, observed in zip(asked, seen, strict=True):
        if observed.rival is None or not observed.answers:
            continue
        beyond = float(np.exp(-observed.nll) - np.exp(-observed.rival.nll))
        for measure, _ in _rates_of(each, observed, observed):
            if measure in MAGNITUDES:
                groups.setdefault(measure, []).append(beyond)
    return {measure: mean_known(values) for measure, values in groups.items()}


def by_category(
    asked: Sequence[Asked], before: Sequence[Observation], after: Sequence[Observation]
) -> dict[Measure, Rates]:
    """Portability and locality: means over the means of the data set's own headings."""
    found: dict[Measure, dict[str, list[Rates]]] = {}
    for each, old, new in zip(asked, before, after, strict=True):
        for measure, rates in _rates_of(each, old, new):
            if measure in (Measure.PORTABILITY, Measure.LOCALITY):
                found.setdefault(measure, {}).setdefault(each.category, []).append(rates)
    return {
        measure: mean_rates([mean_rates(rates) for rates in categories.values()])
        for measure, categories in found.items()
    }


def mean_rates(rates: Sequence[Rates]) -> Rates:
    """Each scoring's mean over those that have it."""
    return Rates(*(mean_known(getattr(each, name) for each in rates) for name in SCORINGS))


def _rates_of(
    asked: Asked, before: Observation, after: Observation
) -> Iterable[tuple[Measure, Rates]]:
    correct = _correct(asked, after)
    if asked.kind is None:
        yield Measure.EFFICACY, correct
    elif asked.kind == ProbeKind.LOCALITY:
        same = _agreement(asked, before, after)
        yield Measure.LOCALITY, same
        yield Measure.LOCALITY_TRUE, correct
        if asked.heading in _KEPT:
            agreement, true = _KEPT[asked.heading]
            yield agreement, same
            yield true, correct
    else:
        if asked.kind == ProbeKind.PARAPHRASE:
            yield Measure.PARAPHRASE, correct
        elif asked.heading != Heading.SINGLE_HOP:
            yield Measure.PORTABILITY, correct
        if asked.heading in _WANTED:
            yield _WANTED[asked.heading], correct


def _correct(asked: Asked, seen: Observation) -> Rates:
    """Whether an accepted answer is given, and is likelier than the rival."""
    if not seen.answers:
        return Rates(float("nan"), float("nan"), float("nan"))
    return Rates(
        tokens=max(each.accuracy for each in seen.answers),
        likelihood=float("nan") if seen.rival is None else float(seen.nll < seen.rival.nll),
        generation=float(any(says(seen.text, answer) for answer in asked.texts)),
    )


def _agreement(asked: Asked, before: Observation, after: Observation) -> Rates:
    """Whether the edited model says the same as before, right or wrong."""
    length = len(asked.answers[0]) if asked.answers else 1
    free = float(before.reply[:length] == after.reply[:length])
    if not asked.answers:
        return Rates(float("nan"), float("nan"), free)
    pairs = zip(before.answers[0].best, after.answers[0].best, strict=True)
    return Rates(mean_known(float(old == new) for old, new in pairs), float("nan"), free)


def mean_known(values: Iterable[float]) -> float:
    """Of the values that are defined; NaN of none."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")
