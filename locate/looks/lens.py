"""What the logit lens says of one prompt, or of many facts with their attribution."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.base.display import drawn
from locate.looks.look import Look, Table, describe, telling, warnings_of
from locate.looks.says import says
from locate.states.lens_curves import AverageLens, Curve, Place
from locate.states.lens_result import LensResult
from locate.states.logit_attribution import LogitAttribution

FILES = (
    "lens.kc.safetensors",
    "lens.svg",
    "average_lens.kc.safetensors",
    "average_lens.svg",
    "attribution.kc.safetensors",
)
LARGEST = 12
"""Contributions in the printed table."""


def prompt_lens(found: LensResult) -> Look:
    """The lens on one prompt: what is followed, by label, at the last and the subject's token."""
    origin, prompt = found.provenance, found.prompt
    metadata: dict[str, Any] = {
        "model": origin["model"],
        "prompt": prompt.text,
        "tokens": list(prompt.tokens),
        "followed": origin.get("followed"),
        "provenance": dict(origin),
    }
    return Look(
        "lens",
        says(found),
        {**metadata, "layers": found.rows()},
        tables=_prompt_tables(found),
        files={
            "lens.kc.safetensors": found.save,
            "lens.svg": lambda path: drawn(found, path, title=prompt.text),
        },
    )


def average_lens(lens: AverageLens, attribution: LogitAttribution | None = None) -> Look:
    """The averaged lens, and the largest contributions to the logit difference beside it."""
    origin = lens.provenance
    shared = {
        "model": origin["model"],
        "relation": origin.get("relation"),
        "pairs": lens.n_facts,
        "counts": origin.get("counts"),
        "warnings": warnings_of(origin),
    }
    beside = None if attribution is None else attributed(attribution)
    extra = {"provenance": dict(origin)} if beside is None else beside.summary
    return Look(
        "average-lens",
        says(lens),
        {**shared, "layers": lens.rows(), **extra},
        tables=(
            *(_average_table(lens, at, place) for at, place in enumerate(lens.places)),
            *(() if beside is None else beside.tables),
        ),
        lines=describe(origin, lens.n_facts),
        files={
            "average_lens.kc.safetensors": lens.save,
            "average_lens.svg": lambda path: drawn(lens, path, title=lens.heading()),
            **({} if beside is None else beside.files),
        },
    )


def attributed(found: LogitAttribution) -> Look:
    """What each head and MLP adds to the logit difference, the largest first."""
    difference, rows = float(found.logit_difference.mean()), found.rows()
    largest = Table(
        f"mean logit difference {difference:.3f}, largest contributions:",
        ("source", "contribution"),
        [(row["source"], f"{row['contribution']:.3f}") for row in rows[:LARGEST]],
    )
    return Look(
        "attribution",
        says(found),
        {
            "model": found.provenance["model"],
            "relation": found.provenance.get("relation"),
            "logit_difference": difference,
            "constant": float(found.constant.mean()),
            "contributions": rows,
            "warnings": warnings_of(found.provenance),
            "provenance": dict(found.provenance),
        },
        tables=(largest,),
        lines=describe(found.provenance, len(found.logit_difference)),
        files={"attribution.kc.safetensors": found.save},
    )


def _prompt_tables(found: LensResult) -> tuple[Table, ...]:
    """A table a position: what is followed by layer, where its rank changes most."""
    labels = list(found.labels)
    header = ("layer", *(part for label in labels for part in (label, "p")), "most likely")
    tables = []
    for at, place in enumerate(found.positions):
        shown = telling(found.rank[:, at])
        rows = [
            (
                _layer(state - 1),
                *(
                    part
                    for column in range(len(labels))
                    for part in (
                        f"{found.rank[state, at, column] + 1:,}",
                        f"{found.probability[state, at, column]:.4f}",
                    )
                ),
                found.best_tokens[int(found.best[state, at, 0])],
            )
            for state in shown
        ]
        title = f"at {place}: rank (1 is the top) and probability"
        tables.append(Table(title, header, rows, _rest(len(found.rank) - len(shown))))
    return tuple(tables)


def _rest(n: int) -> str:
    return f"{n} more layers in lens.svg (`--out`) and `--json`" if n else ""


def _average_table(lens: AverageLens, at: int, place: Place) -> Table:
    curves = [
        curve
        for what in lens.followed
        for curve in (lens.median_rank(place, what), lens.mean_probability(place, what))
    ]
    digits, first = [0, 3] * len(lens.followed), [1, 0] * len(lens.followed)
    shown = telling(np.median(lens.rank[:, :, at], 0))
    return Table(
        f"at the {place}: median rank (1 is the top) and mean probability, with 95 % intervals:",
        ("layer", *(part for what in lens.followed for part in (what, "p"))),
        [
            (
                _layer(state - 1),
                *(
                    _estimate(curve, state, n, add)
                    for curve, n, add in zip(curves, digits, first, strict=True)
                ),
            )
            for state in shown
        ],
        _rest(lens.rank.shape[1] - len(shown)),
    )


def _layer(layer: int) -> str:
    return "embedding" if layer < 0 else str(layer)


def _estimate(curve: Curve, state: int, digits: int, add: int) -> str:
    """A value with its limits; ranks, which curves have from 0, get 1 added."""
    value, low, high = (float(part[state]) + add for part in (curve.value, curve.low, curve.high))
    text = f"{value:,.{digits}f}"
    return text if np.isnan(low) else f"{text} [{low:,.{digits}f}, {high:,.{digits}f}]"
