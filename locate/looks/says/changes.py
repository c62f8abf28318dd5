"""What a change did: sentences on edits, unlearning, rewiring, comparisons and interchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.intervals import Interval, enough
from circuits.edits.provenance import JUDGED
from locate.looks.says.words import (
    count,
    figure,
    figures,
    model_of,
    percent,
    percents,
    probability,
    prompt,
    quoted,
    sentence,
)

if TYPE_CHECKING:
    from circuits.edits.edit import WeightDelta
    from circuits.edits.judge.success import RequestScore
    from circuits.edits.methods.run import EditOutcome
    from circuits.edits.parts.moments import Moments
    from circuits.files.units import Record
    from circuits.graph.comparison import Comparison
    from locate.changes.restored import Restoration
    from locate.changes.rewired import Rewiring
    from locate.edited import Edited
    from locate.interchange import Interchange

STAYS = ("neighbours", "other relations", "locality")
"""Measures of what an edit should leave alone; a sentence names the one that says the worst."""
VALUES = 3
"""Values of a sweep's unit in its sentence."""


def comparison(found: Comparison) -> str:
    """Of two circuits: what they share, and what noise or chance would give."""
    a, b = found.before.n_edges, found.after.n_edges
    either, kept = int((found.before | found.after).n_edges), int(found.kept.sum())
    flipped = 0 if found.flipped is None else int(found.flipped.sum())
    shares = (
        f"the circuits share {kept:,} of {count(either, 'edge')}"
        f"{f', {flipped:,} of them flipped' if flipped else ''} (Jaccard {figure(found.jaccard)}"
    )
    if found.rediscovery is not None:
        shares += f"; two discoveries of the same model {figures(found.rediscovery.floor)}"
    else:
        both = a * b / max(found.before.wiring.n_edges, 1)
        chance = both / (a + b - both) if a + b > both else 1.0
        shares += f"; random ones of these sizes {figure(chance)}"
    if found.changes is None:
        return sentence(f"{shares}); whether single edges changed beyond noise cannot be told")
    counts = found.changes.counts()
    changed, total = counts["changed"], sum(counts.values())
    told = f"of {count(total, 'edge')} changed beyond what {_might_have_been(found)} would change"
    none = f"no evidence that any {told}"
    return sentence(f"{f'{changed:,} {told}' if changed else none}; {shares})")


def _might_have_been(found: Comparison) -> str:
    """What the pairs of both sides might have been instead: other facts, corrupted subjects."""
    changes = found.changes
    if changes is None or (changes.facts > 1 and changes.partners > 1):
        return "other facts and other corrupted subjects"
    return "other corrupted subjects" if changes.facts == 1 else "other facts"


def rewiring(found: Rewiring) -> str:
    """Of an edit's circuit: how far the answer moved, and what undoes it beside random edges."""
    old, new = found.logit_differences
    which = "the old object against the new one"
    if found.asks_otherwise:
        which = "the {} against the {}".format(*found.objects)
        which += f" of {found.provenance['relation']}"
    moved = f"the edit moved {which} from {figure(old, 1)} to {figure(new, 1)} logits"
    restored = found.restoration
    if restored is None:
        return sentence(f"{moved}; {_without_capital(comparison(found.comparison))}")
    if not restored.n_edges:
        return sentence(f"no evidence that the edit changed any edge beyond noise, though {moved}")
    share, random = restored.recovered, restored.random_recovered
    if not np.isfinite(share):
        return sentence(f"{moved}, too little for a share that old values could undo")
    back = f"old values on the {count(restored.n_edges, 'edge')} called changed undo "
    back += percent(share)
    if not len(random):
        return sentence(f"{moved}; {back} of that, with no random edges to compare")
    beside = f"on as many random edges {percent(float(random.mean()))}"
    if share <= float(random.max()):
        return sentence(
            f"no evidence that the {count(restored.n_edges, 'edge')} called changed carry the "
            f"edit: {back}, {beside}, at most {percent(float(random.max()))}; {moved}"
        )
    here = "of that on the pairs that found them"
    return sentence(f"{moved}; {back} {here}, {beside}{_elsewhere(found.elsewhere)}")


def _elsewhere(found: Restoration | None) -> str:
    """A clause on the wordings that chose no edge."""
    if found is None:
        return ""
    wordings = f"{count(len(found.edited), 'prompt')} in other wordings"
    if not np.isfinite(found.recovered):
        return f"; on {wordings} the edit changes too little to say"
    random = found.random_recovered
    beside = f", random ones {percent(float(random.mean()))}" if len(random) else ""
    return f"; on {wordings} they undo {percent(found.recovered)}{beside}"


def edited(found: Edited) -> str:
    """Of edits: what the model says now and said before, and what it cost others."""
    scores, model = found.scores, model_of({"model": found.model.name})
    made = len(found.run.made)
    if not made:
        counted = ", ".join(f"{n} {status}" for status, n in found.status.items())
        return sentence(f"no evidence that {found.method} edited {model}: {counted}")
    if len(scores) == 1:
        text = _one(scores[0], model)
    else:
        after = [_says(score, score.after) for score in scores]
        before = [_says(score, score.before) for score in scores]
        text = (
            f"in {sum(after):,} of {count(len(scores), 'request')} {model} now says the new "
            f"object, before in {sum(before):,}"
        )
        if made < len(scores):
            text += f", with {made:,} of {count(len(scores), 'edit')} made"
    return sentence(f"{text}; {_cost(scores)}")


def outcome(found: EditOutcome) -> str:
    """Of one method's outcome: the target's probability before and after, or both sets' scores."""
    details = found.details
    if "forget" in details:
        return unlearned(details, found.method, found.reason)
    sides = [
        np.asarray(details.get(f"probability_{side}", ()), float) for side in ("before", "after")
    ]
    if found.delta is None or not all(map(len, sides)):
        why = f": {found.reason}" if found.reason else ""
        return sentence(f"no evidence of an edit by {found.method}: {found.status}{why}")
    target = "the target" if len(found.requests) != 1 else quoted(found.requests[0].target)
    n = "" if len(sides[0]) == 1 else f" on average over {count(len(sides[0]), 'request')}"
    return sentence(
        f"the edit by {found.method} takes {target} from p "
        f"{probability(float(sides[0].mean()))} to {probability(float(sides[1].mean()))}{n}; "
        "what it cost others was not measured"
    )


def delta(found: WeightDelta) -> str:
    """Of a stored change: how much changed, and how it fared, where its file says so."""
    size = f" ({count(len(found.changes), 'weight')} changed by norm {found.norm():.3g})"
    return stored_edit(found.provenance, size)


def stored_edit(origin: Mapping[str, Any], size: str = "") -> str:
    """Of what a stored change tells of itself: how it fared; its weights need not be read."""
    method = origin.get("method")
    edit = f"the edit{f' by {method}' if isinstance(method, str) else ''}{size}"
    told = origin.get(JUDGED)
    fared = told if isinstance(told, Mapping) else {}
    details = fared.get("details")
    if isinstance(details, Mapping) and "forget" in details:
        return unlearned(details, str(method or "the method"))
    success: Any = fared.get("success")
    before, after = (_efficacy(success, side) for side in ("before", "after"))
    if after is None:
        return sentence(f"the file of {edit} does not say whether it worked")
    n = success.get("requests")
    asked = count(n, "request") if isinstance(n, int) else "its requests"
    was = "an unknown share" if before is None else percent(before)
    return sentence(
        f"{edit} makes {model_of(origin)} say the new object in {percent(after)} of {asked}, "
        f"before in {was}"
    )


def _efficacy(success: Any, side: str) -> float | None:
    """The share of requests answered with the new object: in free text, else token by token."""
    for scoring in ("generation", "tokens"):
        try:
            value = Interval.from_dict(success[side]["efficacy"][scoring]).value
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite(value):
            return value
    return None


def moments(found: Moments) -> str:
    """Of second moments: of what, over how many tokens."""
    tokens = found.source.get("tokens")
    over = f" over {count(tokens, 'token')}" if isinstance(tokens, int) else ""
    layers = ", ".join(map(str, found.matrices))
    return sentence(f"second moments of the keys of layers {layers}{over}")


def unit(found: Record) -> str:
    """Of a sweep's unit: its first values, or why there are none."""
    about = found.provenance["unit"]
    verb = f"a unit of {about['verb']} on {model_of({'model': about['model']})}"
    if about["left_out"]:
        return sentence(f"{verb} was left out: {about['left_out']}")
    rows = found.rows()
    shown = ", ".join(f"{row['name']} {_value(row['value'])}" for row in rows[:VALUES])
    more = f" and {len(rows) - VALUES} more values" if len(rows) > VALUES else ""
    return sentence(f"{verb} gave {shown}{more}" if rows else f"{verb} gave no value")


def interchange(found: Interchange) -> str:
    """Of an interchange: how far the metric moves, and how often the answer goes."""
    n, moved = count(len(found.pairs), "pair"), found.moved
    parts = found.parts[0] if len(found.parts) == 1 else count(len(found.parts), "part")
    if not np.isfinite(moved.value):
        return sentence(
            f"no evidence on {parts}: base and source have the same {found.metric} on {n}"
        )
    flipped = found.flipped
    answers = f"; the answer changes in {percents(flipped)}" if np.isfinite(flipped.value) else ""
    text = (
        f"the source's values in {parts} take {found.metric} {percents(moved)} of the way from "
        f"base to source on {n}{answers}"
    )
    if np.isfinite(moved.low) and moved.low <= 0 <= moved.high:
        return sentence(f"no evidence that {parts} matters: {_without_capital(text)}")
    if enough(found.sample.observations):
        return sentence(text)
    one_each = found.sample.drawn == "pairs"
    few = "too few" if one_each else f"{found.sample.over} are too few"
    return sentence(f"{text}; {few} for an interval")


def unlearned(details: Mapping[str, Any], method: str, reason: str = "") -> str:
    """Of unlearning: token accuracy of both sets before and after."""
    told = {}
    for name in ("forget", "retain", "held_out"):
        sides = details.get(name)
        if isinstance(sides, Mapping) and "before" in sides and "after" in sides:
            told[name] = [float(sides[when]["accuracy"]) for when in ("before", "after")]
    if "forget" not in told:
        why = f": {reason}" if reason else ""
        return sentence(f"no evidence that {method} unlearned anything{why}")
    before, after = told["forget"]
    text = f"token accuracy on what {method} was to forget went from {percent(before)} to "
    text += percent(after)
    name = "held_out" if "held_out" in told else "retain"
    if name in told:
        where = "texts that no one trained on" if name == "held_out" else "what was to stay"
        stays = f", on {where} from {percent(told[name][0])} to {percent(told[name][1])}"
    else:
        stays = ", and what was to stay was not scored"
    if after >= before:
        return sentence(f"no evidence that anything was forgotten: {text}{stays}")
    return sentence(text + stays)


def _one(score: RequestScore, model: str) -> str:
    before, after = score.reply
    p = f"p {probability(score.probability[0])} to {probability(score.probability[1])}"
    target, asked = quoted(score.request.target), prompt(score.request.text)
    if not _says(score, score.after):
        return (
            f"no evidence that the edit took: {model} answers {asked} with {_reply(after)} and not "
            f"with {target} ({p})"
        )
    return f"asked {asked}, {model} says {_reply(after)} and said {_reply(before)} ({target}: {p})"


def _reply(text: str) -> str:
    words = text.strip()
    return quoted(words if len(words) <= 30 else f"{words[:30].rsplit(' ', 1)[0]} ...")


def _says(score: RequestScore, side: Mapping[Any, Any]) -> bool:
    """Whether the model says the target, by itself where that was asked, else token by token."""
    rates = side.get("efficacy")
    if rates is None:
        return False
    value = rates.generation if np.isfinite(rates.generation) else rates.tokens
    return bool(value >= 1)


def _cost(scores: Sequence[RequestScore]) -> str:
    """What should have stayed: the share of it that did, by the measure that says the worst."""
    shares: dict[str, float] = {}
    for measure in STAYS:
        found = [
            rates.tokens
            for score in scores
            for name, rates in score.after.items()
            if str(name) == measure and np.isfinite(rates.tokens)
        ]
        if found:
            shares[measure] = float(np.mean(found))
    if not shares:
        return "what it cost other facts was not measured"
    worst = min(shares, key=lambda measure: shares[measure])
    least = " at the least" if len(shares) > 1 else ""
    return f"of answers that should stay, {percent(shares[worst])} do{least} ({worst})"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:40]


def _without_capital(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}".removesuffix(".")
