"""Where a state says the answer: sentences on traces, lenses and direct attribution.

A rank is counted from 1, the top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuits.base.choices import TraceKind
from circuits.base.intervals import Interval, bootstrap_means
from circuits.base.origin import unit_of
from locate.looks.says.words import (
    and_so_on,
    count,
    figure,
    figures,
    probability,
    prompt,
    quoted,
    sentence,
)
from locate.states.observed import drawn_of

if TYPE_CHECKING:
    from circuits.model.saying import NextTokens
    from locate.states.lens_curves import AverageLens
    from locate.states.lens_result import LensResult
    from locate.states.logit_attribution import LogitAttribution
    from locate.states.trace_result import Trace
    from locate.states.trace_roles import AverageTrace

RIVALS = 3
"""Labels beside the first whose last rank a lens's sentence names."""
LEVEL = 0.05
"""By chance so often at most is the largest of all effects called one."""


def trace(found: Trace) -> str:
    """Of one prompt: the state that brings most of the answer back, and the usual state.

    What takes it away is noise, or another prompt.
    """
    other = found.provenance.get("corrupted")
    cause = f"{prompt(other)} in its place" if isinstance(other, str) else "noise on the subject"
    costs = (
        f"{cause} takes {quoted(found.answer)} from p {probability(found.p_clean)} to "
        f"{probability(found.p_corrupted)}"
    )
    if found.total_effect <= 0:
        return sentence(f"no evidence on where it is recalled: {costs}, which takes nothing away")
    effects = {kind: found.effect(kind) for kind in _telling(found.kinds)}
    kind = max(effects, key=lambda each: float(effects[each].max()))
    layer, place = np.unravel_index(int(effects[kind].argmax()), effects[kind].shape)
    best = float(effects[kind][layer, place])
    every = np.concatenate([values.ravel() for values in effects.values()])
    usual = f"the median of {count(len(every), 'state')} {figure(float(np.median(every)), 3)}"
    state = f"the {kind.label} at layer {layer} of {quoted(found.tokens[place])}"
    back = f"{costs}; {state} gives {figure(best, 3)} of that back, {usual}"
    if isinstance(other, str):  # another prompt is no sample of anything
        return sentence(back)
    error = float(found.standard_error(kind)[layer, place])
    if not np.isfinite(error):
        return sentence(f"{back}: one noise sample does not say how sure that is")
    from scipy.special import stdtrit  # all of scipy.stats would take long

    n = len(found.p_corrupted_samples)
    if best <= error * stdtrit(n - 1, 1 - LEVEL / len(every)):
        return sentence(
            f"no evidence that any state gives the answer back: {costs}, and the most, "
            f"{figure(best, 3)} by {state}, is what chance gives one of {len(every):,} states"
        )
    return sentence(back)


def average_trace(found: AverageTrace) -> str:
    """Of many facts: the place and layer that bring most back, and the usual place."""
    n, unit = len(found.p_clean), "p" if found.measure == "p" else found.measure
    clean, corrupted = float(found.p_clean.mean()), float(found.p_corrupted.mean())
    cause = "corrupted prompts take" if found.places else "noise on the subject takes"
    costs = f"{cause} the answer's {unit} from {figure(clean)} to {figure(corrupted)}"
    costs = f"over {count(n, found.unit)}, {costs}"
    peaks = [
        (peak[1].value, kind, role, peak)
        for kind in _telling(found.kinds)
        for role in found.roles
        if role.is_site and (peak := found.peak(kind, role)) is not None
    ]
    if not peaks or clean <= corrupted:
        return sentence(f"no evidence on where it is recalled: {costs}")
    _, kind, role, (layer, value) = max(peaks, key=lambda each: each[0])
    shown = [found.mean(each)[found.counts > 0] for each in _telling(found.kinds)]
    means = np.concatenate([each.ravel() for each in shown])
    usual = f"the median of {count(len(means), 'place')} {figure(float(np.median(means)))}"
    state = f"the {kind.label} at layer {layer} of the {_place(str(role))}"
    if np.isfinite(value.low) and value.low <= 0:
        return sentence(
            f"no evidence that any state gives the answer back: {costs}, and the most is "
            f"{figures(value)}, by {state}"
        )
    text = f"{costs}; {state} gives {figures(value)} of that back, {usual}"
    drawn = drawn_of(found.provenance, found.unit)
    return sentence(text + ("" if np.isfinite(value.low) else f": too few {drawn} for an interval"))


def lens(found: LensResult) -> str:
    """Of one prompt: from which layer on the first label leads, and where the others end."""
    place, label = next(iter(found.positions)), next(iter(found.labels))
    ranks = found.rank[:, 0, 0]
    n_layers, end = len(ranks) - 1, float(found.probability[-1, 0, 0])
    name = _named(found, label)
    where = prompt(found.prompt.text)
    if found.positions[place] != len(found.prompt) - 1:
        where += f" (read at {quoted(place)})"
    others = [
        f"{_named(found, each)} ends at rank {int(found.rank[-1, 0, at]) + 1:,}"
        for at, each in enumerate(found.labels)
    ][1 : 1 + RIVALS]
    beside = f"; {and_so_on(others)}" if others else ""
    if ranks[-1] > 0:
        best = found.best_tokens[int(found.best[-1, 0, 0])]
        return sentence(
            f"{name} does not lead after {where}: it ends at rank {int(ranks[-1]) + 1:,} (p "
            f"{probability(end)}), and {quoted(best)} leads{beside}"
        )
    first = _since(ranks == 0)
    since = "from the embedding on" if first == 0 else f"from layer {first - 1} on"
    before = "" if first == 0 else f", at rank {int(ranks[first - 1]) + 1:,} one layer before"
    return sentence(
        f"{name} leads after {where} {since} ({n_layers} layers){before}; it ends with p "
        f"{probability(end)}{beside}"
    )


def average_lens(found: AverageLens) -> str:
    """Of many facts: from which layer on the answer leads at the last token, and its rivals."""
    place = 0
    ranks = np.median(found.rank[:, :, place, :], 0) + 1
    shares = found.probability[:, -1, place, :].mean(0)
    answer, end = ranks[:, 0], float(ranks[-1, 0])
    text = f"over {count(found.n_facts, unit_of(found.provenance))}, the answer"
    rivals = ""
    if ranks.shape[1] > 1:
        rivals = f"; the best of the {found.followed[1]} ends at {ranks[-1, 1]:,g}"
    n_layers = len(answer) - 1
    if end > 1:
        return sentence(
            f"{text} does not lead at the {found.places[place]}: its median rank ends at {end:,g} "
            f"(mean p {probability(float(shares[0]))}){rivals}"
        )
    first = _since(answer <= 1)
    since = "from the embedding on" if first == 0 else f"from layer {first - 1} on"
    before = "" if first == 0 else f", {answer[first - 1]:,g} one layer before"
    return sentence(
        f"{text} has median rank 1 at the {found.places[place]} {since} ({n_layers} layers)"
        f"{before} (mean p {probability(float(shares[0]))} at the end){rivals}"
    )


def attribution(found: LogitAttribution) -> str:
    """Of direct attribution: the source that writes most for the answer, and the usual one."""
    mean = found.mean()
    source = int(mean.argmax())
    n = len(found.contributions)
    limits = bootstrap_means(found.contributions[:, [source]], groups=found.groups)
    value = Interval(*(float(x[0]) for x in limits))
    total = figure(float(found.logit_difference.mean()))
    name, usual = found.wiring.src_names[source], figure(float(np.median(mean)))
    beside = f"the median of {count(len(mean), 'source')} {usual}"
    unit = unit_of(found.provenance)
    over = f"over {count(n, unit)}"
    if np.isfinite(value.low) and value.low <= 0:
        return sentence(
            f"no evidence that any source writes for the answer {over}: the most is "
            f"{figures(value)} logits by {name}, {beside}"
        )
    text = (
        f"{over}, {name} writes most for the answer against the foil: {figures(value)} of "
        f"{total} logits, {beside}"
    )
    drawn = drawn_of(found.provenance, unit)
    return sentence(text + ("" if np.isfinite(value.low) else f"; too few {drawn} for an interval"))


def next_tokens(found: NextTokens) -> str:
    """Of what may follow: the likeliest token and the next."""
    first, *rest = zip(found.tokens, found.probabilities, strict=True)
    text = f"{quoted(first[0])} is the likeliest to follow (p {probability(first[1])})"
    if rest:
        text += f", before {quoted(rest[0][0])} (p {probability(rest[0][1])})"
    return sentence(text)


def _telling(kinds: Sequence[TraceKind]) -> tuple[TraceKind, ...]:
    """Attention and MLPs where they were restored: the last residual stream is all there is."""
    return tuple(kind for kind in kinds if kind != TraceKind.RESID) or tuple(kinds)


def _since(holds: np.ndarray) -> int:
    """The first place from which on it holds up to the end; it holds at the end."""
    wrong = np.flatnonzero(~holds)
    return int(wrong[-1]) + 1 if len(wrong) else 0


def _named(found: LensResult, label: str) -> str:
    """`the answer 'Paris'`: a label with the word that it stands for, where that is known."""
    words = found.provenance.get("followed")
    word = words.get(label) if isinstance(words, Mapping) else None
    return f"the {label} {quoted(word)}" if isinstance(word, str) else f"the {label}"


def _place(role: str) -> str:
    return role if "token" in role else f"{role} token"
