"""How the object comes up through the layers, at the subject and at the last token.

The logit lens reads the residual stream after every layer (Yao et al. 2024, figures 3 and 7): rank
and probability of the object and of its rivals at the last token, of the object and the subject at
the subject's last token. Direct logit attribution says what each head and MLP adds to the logit
difference between the answer and the foil; the layer of recall is the one that adds most. (Where
the lens's probability rises most is given beside it: in models that sharpen what they have in their
last layer, that is the last layer.) Whether components matter is tested by giving the strongest of
them what they write for the corrupted prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from circuits.base.intervals import Interval, percentiles
from circuits.base.options import Options, option
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from circuits.model.wiring import Wiring, node_kind
from experiments.analyses.engine.base import Analysis, SkipError
from experiments.analyses.engine.claims import average
from experiments.analyses.engine.config import relations_drawn
from experiments.analyses.engine.context import Context
from experiments.analyses.flow.report import report
from locate.states.attribution import direct_logit_attribution
from locate.states.lens_average import average_lens
from locate.states.lens_curves import AverageLens, Curve, Followed, Place
from locate.states.transplant import last_outputs, transplant_outputs

FOLLOWED = (
    (Place.LAST, Followed.ANSWER),
    (Place.LAST, Followed.OTHERS),
    (Place.SUBJECT, Followed.ANSWER),
    (Place.SUBJECT, Followed.SUBJECT),
)
"""What is followed where."""
RESAMPLES = 1000
PARTS = ("heads", "mlp")
"""What of a layer pushes."""


@dataclass(frozen=True)
class Config(Options):
    """Options; see `kc run --list`."""

    relations: tuple[str, ...] = option((), "relations to look at; none given: all", selects=True)
    most: int | None = relations_drawn()
    pairs: int = option(
        12, "facts in each half: one names the components, the other tests them", low=1
    )
    components: int = option(3, "strongest heads and MLPs that are tested together", low=1)
    draws: int = option(20, "random sets of as many components of the same layers", low=1)


def steps(context: Context, config: Config) -> list[str]:
    """One unit a relation."""
    return context.names(config.relations, config.most)


def compute(context: Context, config: Config, key: str) -> dict[str, Any]:
    """Curves, layer of recall, attribution and its test, for one relation."""
    examples = context.examples(key, config.pairs)
    if len(examples.held_out) < 2:
        raise SkipError(f"too few facts are known: {examples.counts['known']}")
    model, size, seed = context.model, context.batch_size, context.seed
    facts = [*examples.pairs, *examples.held_out]
    lens = average_lens(model, facts, batch_size=size)
    given = direct_logit_attribution(model, examples.pairs, size)
    other = direct_logit_attribution(model, examples.held_out, size)
    pushes = by_layer(np.concatenate([given.contributions, other.contributions]), given.wiring)
    recalled = recall_layer(pushes.sum(-1), seed)
    strongest = _strongest(given.mean(), given.wiring, config.components)
    return {
        "category": context.relations[key].category,
        "facts": len(facts),
        "curves": [_curve(lens, place, what, seed) for place, what in FOLLOWED],
        "recall": recalled,
        "recall_by_fact": pushes.sum(-1).argmax(1),
        "push": average(pushes[:, int(recalled.value)].sum(-1), seed=seed),
        "sharpest": recall_layer(np.diff(_probability(lens), axis=1), seed),
        "pushes": {name: pushes[..., place].mean(0) for place, name in enumerate(PARTS)},
        "heads_over_mlps": average(pushes[..., 0].sum(1) - pushes[..., 1].sum(1), seed=seed),
        "ahead": _ahead(lens, int(recalled.value), seed),
        "total": float(np.concatenate([given.logit_difference, other.logit_difference]).mean()),
        "components": [
            {"name": given.wiring.src_names[src], "push": float(given.mean()[src])}
            for src in strongest
        ],
        "test": _tested(model, examples.held_out, strongest, config.draws, seed, size),
    }


def recall_layer(rises: Float[np.ndarray, "fact layer"], seed: int = 0) -> Interval:
    """The layer in which the mean rises most, with limits over resampled facts."""
    value = float(rises.mean(0).argmax())
    if len(rises) < 2:
        return Interval(value, np.nan, np.nan)
    picks = np.random.default_rng(seed).integers(len(rises), size=(RESAMPLES, len(rises)))
    return percentiles(value, rises[picks].mean(1).argmax(1).astype(float).tolist())


def _probability(lens: AverageLens) -> Float[np.ndarray, "fact state"]:
    """The object's probability at the last token."""
    place, what = lens.places.index(Place.LAST), lens.followed.index(Followed.ANSWER)
    return lens.probability[:, :, place, what].astype(np.float64)


def _curve(lens: AverageLens, place: Place, what: Followed, seed: int) -> dict[str, Any]:
    """Median rank (1 is best) and mean probability by state, with intervals over facts."""
    rank, probability = (
        lens.median_rank(place, what, seed=seed),
        lens.mean_probability(place, what, seed=seed),
    )
    return {
        "place": str(place),
        "followed": str(what),
        "rank": [Interval(x.value + 1, x.low + 1, x.high + 1) for x in _intervals(rank)],
        "probability": _intervals(probability),
    }


def _intervals(curve: Curve) -> list[Interval]:
    rows = zip(curve.value, curve.low, curve.high, strict=True)
    return [Interval(*(float(x) for x in row)) for row in rows]


def by_layer(
    pushes: Float[np.ndarray, "fact src"], wiring: Wiring
) -> Float[np.ndarray, "fact layer part"]:
    """Logits that the heads and the MLP (`PARTS`) of each layer add to the answer over the foil."""
    layers = [
        np.stack(
            [
                pushes[:, wiring.head_src(layer) : wiring.head_src(layer) + wiring.n_heads].sum(1),
                pushes[:, wiring.mlp_src(layer)],
            ],
            -1,
        )
        for layer in range(wiring.n_layers)
    ]
    return np.stack(layers, 1)


def _ahead(lens: AverageLens, layer: int, seed: int) -> Interval | None:
    """By how many decades the object ranks higher at the subject's last token just before a layer
    than in the embedding; None where no subject is followed.
    """
    if Place.SUBJECT not in lens.places:
        return None
    place, what = lens.places.index(Place.SUBJECT), lens.followed.index(Followed.ANSWER)
    ranks = np.log10(1.0 + lens.rank[:, :, place, what])
    return average(ranks[:, 0] - ranks[:, layer], seed=seed)  # the state before layer l is state l


def _strongest(push: Float[np.ndarray, " src"], wiring: Wiring, count: int) -> list[int]:
    """The heads and MLPs that push the answer most."""
    order = np.argsort(-push, kind="stable")
    return [int(src) for src in order if node_kind(wiring.src_names[src]) != "input"][:count]


def _tested(
    model: Model,
    pairs: Sequence[TokenPair],
    strongest: Sequence[int],
    draws: int,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """The answer's probability with components writing what they write for the corrupted prompt."""
    wiring = model.wiring()
    sets = [[], list(strongest), *random_sets(wiring, strongest, draws, seed)]
    chosen = np.zeros((len(sets), len(pairs), wiring.n_src), dtype=bool)
    for run, members in enumerate(sets):
        chosen[run][:, members] = True
    donors = last_outputs(model, [pair.corrupted for pair in pairs], batch_size)
    answers = [pair.answer for pair in pairs]
    targets = [pair.clean for pair in pairs]
    replies = transplant_outputs(model, targets, donors, chosen, answers, batch_size=batch_size)
    return {
        "facts": len(pairs),
        "whole": replies.probability[0],
        "without": replies.probability[1],
        "without_random": replies.probability[2:].mean(0),
        "right": replies.right[1],
        "right_random": replies.right[2:].mean(0),
    }


def random_sets(wiring: Wiring, chosen: Sequence[int], draws: int, seed: int) -> list[list[int]]:
    """As many components as chosen, each of the layer of one of them, none of them chosen."""
    generator = np.random.default_rng(seed)
    layer_of = wiring.src_layers
    sets = []
    for _ in range(draws):
        free: Bool[np.ndarray, " src"] = np.ones(wiring.n_src, dtype=bool)
        free[[0, *chosen]] = False
        drawn: list[int] = []
        for src in chosen:
            distance = np.where(free, np.abs(layer_of - layer_of[src]), wiring.n_src)
            nearest = np.flatnonzero((distance == distance.min()) & free)
            if len(nearest):
                drawn.append(int(generator.choice(nearest)))
                free[drawn[-1]] = False
        sets.append(drawn)
    return sets


ANALYSIS = Analysis(
    name="flow",
    title="How the answer comes up through the layers",
    question=(
        "Where in the model does the object appear, at which layer is it recalled, and which "
        "components push it?"
    ),
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=2,
    scores_edges=lambda config: False,
)
