"""Locators against the truth: exact patching of single edges, and how good their circuits are.

For each relation every locator scores all edges on half of the known subjects. Some edges are
patched exactly on the same pairs (`locate.edges.exact`), which is what all of them estimate; and
the circuits that each ranking gives are measured on the subjects that had no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from circuits.base.choices import KeyValue, Metric, Open
from circuits.base.errors import OptionError
from circuits.base.options import Options, build, option, parse_settings
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model
from experiments.analyses.circuits.analysis import curves
from experiments.analyses.engine.base import Analysis, SkipError
from experiments.analyses.engine.context import Context
from experiments.analyses.locators.agreement import agreement, pearson_of_sizes
from experiments.analyses.locators.report import report
from experiments.analyses.locators.sample import draw, reader
from locate.edges.exact import patch_chosen_edges
from locate.edges.score import score_edges
from locate.search import S, Scoring

USUAL = (
    "eap",
    "eap-ig",
    "relp",
    "relp:patterns=halved",
    "gim",
    "atp-star:drop=false",
    "ensemble",
)


@dataclass(frozen=True)
class Config(Options):
    """Options; see `kc run --list`."""

    relations: tuple[str, ...] = option((), "relations to look at; none given: drawn", selects=True)
    most: int | None = option(6, "relations drawn where none is named; 0: all", low=0, selects=True)
    locators: tuple[str, ...] = option(
        USUAL, "locators; options of their own follow, as in atp-star:drop=false"
    )
    pairs: int = option(16, "prompt pairs in each half", low=1)
    edges: int = option(1000, "edges to patch exactly; all where there are no more", low=2)
    largest: float = option(0.2, "share of them that counts as the largest", above=0.0, high=0.5)
    metric: Metric = option(Metric.LOGIT_DIFFERENCE, "what counts as recalling the fact")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.locators:
            raise OptionError("there is no locator to look at; take `locators` eap,gim")
        for each in self.locators:
            scoring(each, self.metric)

    def called(self) -> Mapping[str, Sequence[Open]]:
        """The locators, and the members of ensembles."""
        return {"locators": named_in(self.locators)}


def scoring(text: str, metric: Metric) -> Scoring:
    """What a locator and its options ask for: `eap`, or `atp-star:drop=false`."""
    return asked_of(Scoring, text, metric=metric)


def asked_of(kind: type[S], text: str, **values: Any) -> S:
    """A scoring, or a search, for a locator with its options in one text, and for other values.

    OptionError where they do not go together, or where the locator gives no scores.
    """
    name, *settings = text.split(":")
    given = {"method": name, "options": parse_settings(settings) or None}
    made = build(kind, {**given, **values})
    if made.method.selects:
        raise OptionError(f"{name} gives no scores of edges; take one that does, such as eap-ig")
    return made


def named_in(texts: Iterable[str]) -> list[Open]:
    """The locators that such texts name, an ensemble's members in its place."""
    return [one for text in texts for one in asked_of(Scoring, text).members]


def steps(context: Context, config: Config) -> list[str]:
    """One unit a relation."""
    return context.names(config.relations, config.most)


def compute(context: Context, config: Config, key: str) -> dict[str, Any]:
    """One relation: every locator's scores against exact ones, and its circuits by size."""
    examples = context.examples(key, config.pairs)
    if not examples.held_out:
        raise SkipError(f"too few facts are known to test a circuit: {examples.counts['known']}")
    model, pairs = context.model, examples.pairs
    forward = _seconds_of_a_pass(model, pairs, context.batch_size)
    found: dict[str, EdgeScores] = {}
    cost: dict[str, float] = {}
    for name in config.locators:
        start = time.process_time()
        scores = score_edges(
            model,
            pairs,
            scoring(name, config.metric),
            batch_size=context.batch_size,
            progress=context.progress,
        )
        assert isinstance(scores, EdgeScores), "a locator that selects is refused"
        found[name], cost[name] = scores, (time.process_time() - start) / forward
    wiring = model.wiring(KeyValue.GROUPED)
    drawn = draw(wiring, [each.values for each in found.values()], config.edges, context.seed)
    exact = patch_chosen_edges(
        model,
        pairs,
        drawn.tolist(),
        scoring("exact", config.metric),
        batch_size=context.batch_size,
        progress=context.progress,
    )
    largest = max(1, round(config.largest * len(drawn)))
    kinds = np.array([reader(wiring, edge) for edge in drawn.tolist()])
    locators = {}
    for name, scores in found.items():
        guess = scores.values[drawn]
        locators[name] = {
            "cost": cost[name],
            **asdict(agreement(guess, exact.values, largest)),
            "by_reader": {
                kind: pearson_of_sizes(guess[kinds == kind], exact.values[kinds == kind])
                for kind in dict.fromkeys(kinds.tolist())
            },
            "curve": curves(context, examples.held_out, scores, config.metric),
        }
    return {
        "facts": examples.counts,
        "pairs": len(pairs),
        "edges": len(drawn),
        "counted": largest,
        "all_edges": wiring.n_edges,
        "largest": float(np.abs(exact.values).max()),
        "locators": locators,
    }


def _seconds_of_a_pass(model: Model, pairs: Sequence[TokenPair], batch_size: int) -> float:
    """Processor seconds of the pairs' clean prompts without hooks or shared beginning; of three."""
    taken = []
    with torch.no_grad():
        for _ in range(3):
            start = time.process_time()
            for batch in batches(pairs, batch_size, model):
                model.last_logits(batch.clean)
            taken.append(time.process_time() - start)
    return float(np.median(taken))


ANALYSIS = Analysis(
    name="locators",
    title="Locators against exact patching",
    question=(
        "Which locator's scores are nearest to what patching one edge at a time gives, and whose "
        "circuits recall most on subjects that had no part in finding them?"
    ),
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    slow=True,
)
