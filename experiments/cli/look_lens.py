"""`kc lens`: what the logit lens says of one prompt, or of many facts with their attribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from circuits.model.model import Model
from experiments.cli.finding import Look, Table, describe, picture
from locate.examples import Examples
from locate.states.attribution import LogitAttribution
from locate.states.lens import LensResult, lens_positions, logit_lens
from locate.states.lens_average import AverageLens, Curve, Place

FILES = (
    "lens.kc.safetensors",
    "lens.svg",
    "average_lens.kc.safetensors",
    "average_lens.svg",
    "attribution.kc.safetensors",
)
LARGEST = 12
"""Contributions in the printed table."""


def prompt_lens(
    model: Model, prompt: str, followed: Mapping[str, str | None], bos: bool | None
) -> Look:
    """The lens on one prompt: what is followed, by label, at the last and the subject's token."""
    encoded = model.tokenizer.encode(prompt, bos)
    words = {label: word for label, word in followed.items() if word is not None}
    labels = {label: model.tokenizer.first_token(prompt, word) for label, word in words.items()}
    found = logit_lens(model, encoded, labels, lens_positions(encoded, words.get("subject")))
    found = replace(found, provenance={**found.provenance, "followed": words})
    metadata: dict[str, Any] = {
        "model": model.name,
        "prompt": prompt,
        "tokens": list(encoded.tokens),
        "followed": words,
        "provenance": dict(found.provenance),
    }

    return Look(
        {**metadata, "layers": found.rows()},
        tables=(_prompt_table(found),),
        files={
            "lens.kc.safetensors": found.save,
            "lens.svg": picture(found, prompt),
        },
    )


def relation_lens(lens: AverageLens, attribution: LogitAttribution, examples: Examples) -> Look:
    """The averaged lens and the largest contributions to the logit difference."""
    model, name = lens.provenance["model"], examples.name
    lens = replace(lens, provenance={**lens.provenance, "relation": name})
    attribution = replace(attribution, provenance={**attribution.provenance, "relation": name})
    difference = float(attribution.logit_difference.mean())
    shared = {"model": model, "relation": name, "pairs": lens.n_facts}
    attributed: dict[str, Any] = {
        "logit_difference": difference,
        "constant": float(attribution.constant.mean()),
        "contributions": attribution.rows(),
        "provenance": dict(attribution.provenance),
    }
    largest = Table(
        f"mean logit difference {difference:.3f}, largest contributions:",
        ("source", "contribution"),
        [(row["source"], f"{row['contribution']:.3f}") for row in attribution.rows()[:LARGEST]],
    )

    return Look(
        {**shared, "counts": examples.counts, "layers": lens.rows(), **attributed},
        tables=(*(_average_table(lens, place) for place in lens.places), largest),
        lines=(describe(examples),),
        files={
            "average_lens.kc.safetensors": lens.save,
            "average_lens.svg": picture(lens, f"{name} in {model}"),
            "attribution.kc.safetensors": attribution.save,
        },
    )


def _prompt_table(found: LensResult) -> Table:
    return Table(
        "",
        ("layer", "position", "token", "rank", "probability", "most likely"),
        [
            (
                _layer(row["layer"]),
                row["position"],
                row["label"],
                str(row["rank"]),
                f"{row['probability']:.4f}",
                row["best"],
            )
            for row in found.rows()
        ],
    )


def _average_table(lens: AverageLens, place: Place) -> Table:
    curves = [
        curve
        for what in lens.followed
        for curve in (lens.median_rank(place, what), lens.mean_probability(place, what))
    ]
    digits = [0, 3] * len(lens.followed)
    return Table(
        f"at the {place}: median rank (0 is the top) and mean probability, with 95 % intervals:",
        ("layer", *(part for what in lens.followed for part in (what, "p"))),
        [
            (
                _layer(state - 1),
                *(_estimate(curve, state, n) for curve, n in zip(curves, digits, strict=True)),
            )
            for state in range(lens.rank.shape[1])
        ],
    )


def _layer(layer: int) -> str:
    return "embedding" if layer < 0 else str(layer)


def _estimate(curve: Curve, state: int, digits: int) -> str:
    value, low, high = (float(part[state]) for part in (curve.value, curve.low, curve.high))
    text = f"{value:.{digits}f}"
    return text if np.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
