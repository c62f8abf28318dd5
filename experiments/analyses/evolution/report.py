"""The report of `evolution`: tables and sentences from the stored parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.intervals import Interval
from circuits.base.plain import number
from experiments.analyses.engine.base import Part, Report, Section
from experiments.analyses.engine.claims import Claim, average, difference, measured
from experiments.analyses.engine.tables import Table, shown
from experiments.analyses.evolution.figures import (
    early_figure,
    entropy_figure,
    layer_figure,
    matrix_figures,
    overlap_figure,
    role_figure,
)
from experiments.analyses.evolution.numbers import (
    FINAL,
    FOUND,
    NO_SPAN,
    RUN,
    accuracy,
    chance,
    in_common,
    left_out,
    of_kind,
    overlaps,
    recall_times,
    step_name,
    tick,
    transplanted,
)

OVER = "relations"

METHOD = (
    "Facts are those that the last model knows; every checkpoint is asked the same prompt pairs. A "
    "checkpoint's circuit is found on one half of the subjects with the checkpoint's own scores "
    "(EAP-IG), whether it knows the facts or not. Overlap is the Jaccard index: what both circuits "
    "hold over what either holds. Chance is the mean overlap of random connected circuits of the "
    "same size with the last circuit; a second discovery is the last model's circuit from the "
    "other half of the subjects. An overlap with the last circuit can be read between these two.",
    "In a transplant, the circuit of one checkpoint is run in another, on subjects that had no "
    "part in finding it: all edges outside it carry what they carry for the corrupted prompt. "
    f"Faithfulness is left out where the clean and the corrupted run differ by less than "
    f"{NO_SPAN:.0%} of what they differ by in the last model.",
    "A fact counts as recalled at the first checkpoint from which on its answer's first token "
    "stays on top. The sentences that the embedded models were trained on visit every fact equally "
    "often, so that frequent and rare facts differ by their objects: an object that several facts "
    "share is seen more often than one that belongs to a single fact.",
    "Intervals are 95 % bootstrap intervals over relations, those of accuracy over facts.",
)


def report(config: Any, parts: Mapping[str, Part]) -> Report:
    """The report; see the module's text."""
    found, runs = in_common(of_kind(parts, FOUND), of_kind(parts, RUN))
    if not found:
        lead = "No relation could be looked at in the last model and in every checkpoint."
        return Report(f"{lead}{_lacking(parts)}", (), (), METHOD)
    labels = list(found)
    sections = [
        Section(
            "Knowledge and circuit over training",
            _text(found) + _lacking(parts),
            tables=(_progress_table(found, runs),),
            figures=(overlap_figure(found), entropy_figure(found)),
        ),
        Section(
            "Early circuits in later models, and the reverse",
            "",
            tables=(_matrix_table(found, runs),),
            figures=matrix_figures(labels, runs),
            claims=_transplant_claims(labels, runs),
        ),
        Section(
            "What the circuits are made of",
            "",
            figures=(layer_figure(found), role_figure(found)),
        ),
        Section(
            "Facts that come early and facts that come late",
            _early_text(found),
            claims=_frequency_claims(found),
            figures=early_figure(found, runs),
        ),
    ]
    return Report(_lead(found), tuple(sections), tuple(_answer(found, runs)), METHOD)


# --- words ---------------------------------------------------------------------------------------


def _lead(found: Mapping[str, Any]) -> str:
    labels = list(found)
    first = _first_above(labels, [accuracy(found[label]).value for label in labels], 0.5)
    shape = [float(overlaps(found, label, "edges", True).mean()) for label in labels]
    half = _first_above(labels, shape, shape[-1] / 2)
    knows = f"from {step_name(first)} on" if first else "at no checkpoint"
    return (
        f"The model recalls half of the facts {knows}. Two discoveries in the last model, on "
        f"different subjects, share {shown(shape[-1], 2)} of the edges; the checkpoints' circuits "
        f"share half as much with it from {step_name(half)} on."
    )


def _first_above(labels: Sequence[str], values: Sequence[float], level: float) -> str:
    """The first checkpoint from which on the values stay at or above a level."""
    stays = np.flip(np.logical_and.accumulate(np.flip(np.array(values) >= level)))
    return labels[int(stays.argmax())] if stays.any() else ""


def _text(found: Mapping[str, Any]) -> str:
    random = float(chance(found, "edges").mean())
    again = float(overlaps(found, FINAL, "edges", True).mean())
    return (
        f"Random circuits of the same size share {shown(random, 3)} of the edges with the last "
        f"circuit; the circuit of other subjects in the last model shares {shown(again, 2)}."
    )


def _lacking(parts: Mapping[str, Part]) -> str:
    """Which relations are left out, and why; empty where none is."""
    reasons = "; ".join(f"{name} ({why})" for name, why in left_out(parts).items())
    return f" Left out: {reasons}." if reasons else ""


def _answer(found: Mapping[str, Any], runs: Mapping[str, Any]) -> list[Claim]:
    labels = list(found)
    if len(labels) < 2:
        return []
    before = labels[-2]
    claims = [
        measured(
            f"at {step_name(before)} the share of the last circuit's edges is",
            average(overlaps(found, before, "edges")),
            len(found[before]),
            over=OVER,
        ),
        difference(
            f"at {step_name(before)} the circuits agree [less|more] with those of other subjects "
            "in the last model than the last circuits themselves do",
            overlaps(found, FINAL, "edges", True),
            overlaps(found, before, "edges", True),
            unit="of the edges",
            over=OVER,
        ),
        difference(
            "the scores [gather on fewer|are spread over the] edges[| more evenly] in the last "
            "circuits than at the first checkpoint",
            [number(part["entropy"]) for part in found[labels[0]].values()],
            [number(part["entropy"]) for part in found[FINAL].values()],
            unit="bits",
            over=OVER,
        ),
    ]
    return claims


def _transplant_claims(labels: Sequence[str], runs: Mapping[str, Any]) -> tuple[Claim, ...]:
    early = _first_useful(labels, runs)
    if not early:
        return ()
    own = transplanted(runs, FINAL, FINAL, "metric")
    return (
        difference(
            f"in the last model its own circuit is more faithful than that of {step_name(early)}",
            own,
            transplanted(runs, early, FINAL, "metric"),
            opposite=f"in the last model the circuit of {step_name(early)} is more faithful than "
            "its own",
            unit="",
            over=OVER,
        ),
        difference(
            f"in the last model the circuit of {step_name(early)} is more faithful than random "
            "circuits",
            transplanted(runs, early, FINAL, "metric"),
            transplanted(runs, "random", FINAL, "metric"),
            opposite="in the last model random circuits are more faithful than that of "
            f"{step_name(early)}",
            unit="",
            over=OVER,
        ),
        difference(
            f"in the model of {step_name(early)} [its own|the last] circuit is more faithful "
            "than [the last one|its own]",
            transplanted(runs, early, early, "metric"),
            transplanted(runs, FINAL, early, "metric"),
            unit="",
            over=OVER,
        ),
    )


def _first_useful(labels: Sequence[str], runs: Mapping[str, Any]) -> str:
    """The first checkpoint in which the faithfulness of every relation is defined."""
    for label in labels[:-1]:
        if np.isfinite(transplanted(runs, label, label, "metric")).all():
            return label
    return ""


def _early_text(found: Mapping[str, Any]) -> str:
    times = np.array([time for each in recall_times(found).values() for time in each])
    counts = np.bincount(times, minlength=len(found) + 1)
    labels = [step_name(label) for label in found]
    pieces = [f"{count} at {label}" for label, count in zip(labels, counts, strict=False) if count]
    return f"Facts by the checkpoint from which on they are recalled: {', '.join(pieces)}."


def _frequency_claims(found: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Facts with an object that others share against facts with one of their own."""
    shared, single = [], []
    for name, times in recall_times(found).items():
        counts = np.array(found[FINAL][name]["answers"])
        place = np.array(times, dtype=float)
        if (counts > 1).sum() >= 2 and (counts == 1).sum() >= 2:
            shared.append(float(place[counts > 1].mean()))
            single.append(float(place[counts == 1].mean()))
    if len(shared) < 2:
        return ()
    return (
        difference(
            "facts whose object [other facts share|is their own] are recalled earlier than facts "
            "whose object [is their own|other facts share]",
            single,
            shared,
            unit="checkpoints",
            over="relations with both",
        ),
    )


# --- tables --------------------------------------------------------------------------------------


def _progress_table(found: Mapping[str, Any], runs: Mapping[str, Any]) -> Table:
    def mean(values: Any) -> Interval:
        return average(np.array(list(values)))

    return Table.of(
        "training",
        found,
        {
            "step": lambda label, _: tick(label),
            "facts recalled": lambda _, own: accuracy(own),
            "edges": lambda _, own: mean(len(part["edges"]) for part in own.values()),
            "edges shared with the last": lambda label, _: average(overlaps(found, label, "edges")),
            "nodes shared": lambda label, _: average(overlaps(found, label, "nodes")),
            "entropy, bits": lambda _, own: mean(number(part["entropy"]) for part in own.values()),
            "faithfulness": lambda label, _: mean(transplanted(runs, label, label, "metric")),
            "Hit@10": lambda label, _: mean(transplanted(runs, label, label, "hit")),
            "Hit@10, random": lambda label, _: mean(transplanted(runs, "random", label, "hit")),
        },
        title="The model and its own circuits at every checkpoint",
        note=(
            f"Means over {len(found[FINAL])} relations with 95 % intervals; faithfulness and "
            "Hit@10 on subjects that had no part in finding the circuit."
        ),
        default_digits=2,
        digits={"edges": 0},
    )


def _matrix_table(found: Mapping[str, Any], runs: Mapping[str, Any]) -> Table:
    rows = [
        [
            circuit,
            model,
            average(transplanted(runs, circuit, model, "metric")),
            average(transplanted(runs, circuit, model, "hit")),
        ]
        for circuit in [*found, "random"]
        for model in runs
    ]
    columns = ("circuit of", "run in", "faithfulness", "Hit@10")
    return Table("transplants", columns, rows, stored_only=True)
