"""What a result says in a sentence or two, computed from its numbers, and what was asked.

Ranks begin with 1, the top, as in pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.display import token_name
from circuits.edits.provenance import JUDGED, parts_of
from viz.series import lens_lines

if TYPE_CHECKING:  # these bring torch along; a page needs no model
    from circuits.edits.edit import WeightDelta
    from circuits.graph.circuit import Circuit
    from circuits.graph.curves import FaithfulnessCurves
    from locate.edited import Edited
    from locate.heads.role_report import RoleReport
    from locate.states.attribution import LogitAttribution
    from locate.states.lens import LensResult
    from locate.states.lens_average import AverageLens
    from locate.states.trace_average import AverageTrace
    from locate.states.tracing import Trace

GOAL = 0.9
"""The faithfulness whose price in edges a curve's sentence names."""
_NAMED = 3


def said(result: Any) -> list[str]:
    """The sentences of a result; none for a kind that has none."""
    if hasattr(result, "requests") and hasattr(result, "scores"):
        return _edited(result)
    say = _SENTENCES.get(getattr(result, "KIND", ""))
    return [] if say is None else say(result)


def asked(result: Any) -> str:
    """What the model was asked, as one example, and of how many; empty where no file says so."""
    origin: Mapping[str, Any] = getattr(result, "provenance", {})
    where = ""
    if origin.get("relation"):
        where = " in ".join(str(origin[key]) for key in ("relation", "model") if origin.get(key))
    kind, stored = getattr(result, "KIND", ""), None
    if kind == "trace":
        return f"“{result.prompt}” → {result.answer}, in {origin.get('model', 'a model')}"
    if kind == "circuit":
        stored = result.evidence.get("pairs")
    if not isinstance(stored, list) or not stored or not isinstance(stored[0], Mapping):
        return where
    first, more = stored[0], f"; {len(stored)} such pairs" if len(stored) > 1 else ""
    example = f"“{first.get('clean')}” → {first.get('answer')}"
    if first.get("corrupted"):
        example += f", against “{first['corrupted']}” → {first.get('foil')}"
    return f"{example}{more}{f' ({where})' if where else ''}"


def circuit_lines(circuit: Circuit) -> list[str]:
    """Size and faithfulness with its interval and control, as far as the circuit knows them."""
    total, kept = circuit.wiring.n_edges, circuit.n_edges
    size = f"{kept:,} of {total:,} edges ({_share(kept / total)})"
    for name, of in (("held_out", "other subjects"), ("evaluation", "the pairs that found it")):
        measured = circuit.evidence.get(name)
        faithful = _interval(measured, "faithfulness")
        if faithful:
            pairs = measured.get("n_pairs") if isinstance(measured, Mapping) else None
            of = circuit.provenance.get("faithfulness_on", of) if name == "held_out" else of
            line = f"{size} alone do {faithful} of what the whole model does on {of}"
            line += f" (n = {pairs})" if isinstance(pairs, int) else ""
            control = _interval(measured, "random_faithfulness")
            line += f"; random circuits of that size do {control}" if control else ""
            return [line + "."]
    known = circuit.provenance.get("faithfulness")
    if isinstance(known, int | float):
        on = circuit.provenance.get("faithfulness_on")
        return [f"{size}; faithfulness {known:.3f}{f' on {on}' if on else ''}."]
    return [f"{size}; how faithful they are was not measured."]


def requested(provenance: Any) -> list[str]:
    """What an edit, or each part of a sum of edits, was asked to change, as “prompt: old → new”."""
    inner = [each for part in parts_of(provenance) for each in requested(part)]
    own = provenance.get("requests") if isinstance(provenance, Mapping) else None
    for request in own if isinstance(own, list | tuple) else ():
        if isinstance(request, Mapping):
            prompt = str(request.get("prompt", "")).replace("{}", str(request.get("subject", "")))
            old, new = request.get("ground_truth"), request.get("target")
            inner.append(f"“{prompt}” … {f'{old} → ' if old else ''}{new}")
    return inner


def _edited(edited: Edited) -> list[str]:
    """What the model says to each request before and after an edit that was just made."""
    lines = [
        f"“{score.request.text}” … {score.request.target} was asked for: the model says "
        f"“{score.reply[1].strip()}”, before “{score.reply[0].strip()}”."
        for score in edited.scores[:_NAMED]
    ]
    more = len(edited.scores) - _NAMED
    return lines + [f"… and {more:,} more requests"] * (more > 0)


def _compared(result: Any) -> list[str]:
    from locate.looks.comparing import said as lines_of

    return lines_of(result)


def _edit(delta: WeightDelta) -> list[str]:
    lines = requested(delta.provenance)
    found = lines[:_NAMED] + [f"… and {len(lines) - _NAMED:,} more"] * (len(lines) > _NAMED)
    judged = delta.provenance.get(JUDGED)
    success = judged.get("success") if isinstance(judged, Mapping) else None
    sides = success if isinstance(success, Mapping) else {}
    before, after = (_efficacy(sides.get(side)) for side in ("before", "after"))
    if before is not None and after is not None:
        found.append(
            f"The new answer is said to {_share(after)} of the prompts, before {_share(before)}."
        )
    return found


def _efficacy(side: Any) -> float | None:
    for name in ("efficacy", "generation", "value"):
        side = side.get(name) if isinstance(side, Mapping) else None
    return float(side) if isinstance(side, int | float) else None


def _trace(trace: Trace) -> list[str]:
    row = max(trace.rows(), key=lambda each: each["effect"], default=None)
    lines = [
        f"The probability of “{trace.answer}” is {trace.p_clean:.3f}, and "
        f"{trace.p_corrupted:.3f} with the subject corrupted."
    ]
    if row is not None:
        lines.append(
            f"Restoring one state brings back most at “{token_name(row['token'])}”: "
            f"{_state(trace, row['kind'])} of layer {row['layer']}, {row['effect']:+.3f}."
        )
    return lines


def _average_trace(trace: AverageTrace) -> list[str]:
    row = max(trace.rows(), key=lambda each: each["effect"], default=None)
    clean, corrupted = float(trace.p_clean.mean()), float(trace.p_corrupted.mean())
    lines = [
        f"Over {len(trace.p_clean)} facts the answer's {trace.measure} is {clean:.3f} on average, "
        f"and {corrupted:.3f} with the subject corrupted."
    ]
    if row is not None:
        lines.append(
            f"Restoring one state brings back most at the {row['role']}: "
            f"{_state(trace, row['kind'])} of layer {row['layer']}, {row['effect']:+.3f}."
        )
    return lines


def _state(trace: Any, kind: str) -> str:
    return next((each.label for each in trace.kinds if str(each) == str(kind)), str(kind))


def _lens(lens: LensResult | AverageLens) -> list[str]:
    """From which layer on each word that is followed is the top token."""
    lines = lens_lines(lens)
    place = lines.places[0]
    median = "in the median " if lens.KIND == "average lens" else ""
    found = []
    for label, line in lines.ranks[place].items():
        below = np.flatnonzero(np.asarray(line.values) > 0)
        first = int(below[-1]) + 1 if len(below) else 0
        if first >= len(line.values):
            last = float(line.values[-1]) + 1
            found.append(f"{label} is {median}at rank {last:,.0f} after the last layer")
        else:
            since = "from the embedding on" if first == 0 else f"from layer {first - 1} on"
            found.append(f"{label} is {median}the top token {since}")
    return [f"At the {place}: {'; '.join(found)}."] if found else []


def _attribution(found: LogitAttribution) -> list[str]:
    rows = found.rows()[:_NAMED]
    named = ", ".join(f"{row['source']} {row['contribution']:+.2f}" for row in rows)
    mean, pairs = float(found.logit_difference.mean()), len(found.logit_difference)
    return [
        f"The answer leads its foil by {mean:.2f} logits on average (n = {pairs}); directly add "
        f"most: {named}."
    ]


def _curves(found: FaithfulnessCurves) -> list[str]:
    from circuits.graph.curves import BASELINE

    lines = []
    for name, curve in found.curves.items():
        if name == BASELINE:
            continue
        enough = [
            (size, point)
            for size, point in zip(curve.sizes, curve.faithfulness, strict=True)
            if point.value >= GOAL
        ]
        if enough:
            size, point = enough[0]
            line = f"With {name}, {size:,} edges reach faithfulness {point}"
            random = found.curves.get(BASELINE)
            if random is not None and size in random.sizes:
                there = random.faithfulness[list(random.sizes).index(size)]
                line += f"; as many random edges {there}"
            lines.append(f"{line}.")
        else:
            best = max((point.value for point in curve.faithfulness), default=float("nan"))
            lines.append(
                f"With {name}, no size measured reaches faithfulness {GOAL}: {best:.3f} at most."
            )
    return lines


def _roles(report: RoleReport) -> list[str]:
    counts: dict[str, list[str]] = {}
    for head in report.labelled:
        counts.setdefault(str(head.role), []).append(head.name)
    if not counts:
        return [f"None of {len(report.heads):,} heads meets the criterion of a role."]
    parts = [
        f"{len(names)} {role} ({', '.join(names[:_NAMED])}{', …' * (len(names) > _NAMED)})"
        for role, names in counts.items()
    ]
    return [
        f"Of {len(report.heads):,} heads {len(report.labelled)} have a role: {', '.join(parts)}."
    ]


def _interval(measures: Any, name: str) -> str:
    """`97.5 % [96.1, 98.4]` from a stored interval; empty where there is none."""
    found = measures.get(name) if isinstance(measures, Mapping) else None
    value = found.get("value") if isinstance(found, Mapping) else None
    if not isinstance(value, int | float):
        return ""
    low, high = found.get("low"), found.get("high")  # type: ignore[union-attr]
    text = _share(value)
    if isinstance(low, int | float) and isinstance(high, int | float):
        text += f" [{_percent(low)}, {_percent(high)}]"
    return text


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def _share(share: float) -> str:
    return f"{_percent(share)} %"


_SENTENCES: dict[str, Callable[[Any], list[str]]] = {
    "circuit": circuit_lines,
    "comparison": _compared,
    "rewiring": _compared,
    "trace": _trace,
    "average trace": _average_trace,
    "lens": _lens,
    "average lens": _lens,
    "attribution": _attribution,
    "faithfulness curves": _curves,
    "roles": _roles,
    "weight-delta": _edit,
}
