"""What unlearning forgets and what it keeps.

A few facts are unlearned in one wording while many others are retained, several times over with
other facts. Scored are the facts to forget in that wording and in held-out ones, the facts to
retain, and facts that no method saw. Each score is token accuracy.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.base.choices import Templates, UnlearnMethod
from circuits.base.options import Options, option
from circuits.edits.methods.unlearn import unlearn
from circuits.edits.parts.examples import (
    Example,
    encode_examples,
    fact_examples,
    split_facts,
)
from circuits.edits.parts.training import Trainee, token_scores
from circuits.facts.facts import Relation
from circuits.model.model import Model
from experiments.analyses.engine.base import Analysis, Part
from experiments.analyses.engine.context import Context
from experiments.analyses.unlearning.report import FORGET, RETAIN, REWORDED, SETS, UNSEEN, report


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    methods: tuple[UnlearnMethod, ...] = option(tuple(UnlearnMethod), "how facts are unlearned")
    forget: int = option(10, "facts that are unlearned", low=1)
    retain: int = option(100, "facts that are to stay", low=1)
    draws: int = option(10, "how often, each time with other facts", low=1, selects=True)


def steps(context: Context, config: Config) -> Sequence[str]:
    """One unit a draw."""
    return [f"draw {number + 1}" for number in range(config.draws)]


def compute(context: Context, config: Config, key: str) -> Part:
    """One draw, unlearned by every method."""
    seed = seed_of(context.seed, key)
    relations, model = list(context.relations.values()), context.model
    known = context.once(("answered", context.facts), lambda: known_facts(model, relations))
    drawn = draw(known, relations, config.forget, config.retain, seed)
    found = []
    methods = list(dict.fromkeys(config.methods))
    for method in methods:
        found.append(unlearned(model, method, drawn, seed))
        context.progress(len(found), len(methods))
    return {"before": accuracy(model, drawn), "methods": found}


def seed_of(seed: int, key: str) -> int:
    """The seed of a draw: no two draws, of whatever runs, have one in common by design."""
    return random.Random(f"unlearning {seed} {key}").getrandbits(32)


def known_facts(model: Model, relations: Iterable[Relation]) -> list[Example]:
    """The facts in their first wording of which the model says the whole answer."""
    asked = fact_examples(relations)
    return [each for each, right in zip(asked, scores(model, asked), strict=True) if right == 1]


def draw(
    known: Sequence[Example], relations: Iterable[Relation], forget: int, retain: int, seed: int
) -> dict[str, list[Example]]:
    """The sets by name: known facts, each in one wording; no subject stands in two of them.

    `REWORDED` are the facts to forget again, in the held-out wordings of relations that have some.
    OptionError where too few facts are known.
    """
    first, rest = split_facts(known, forget, 2 * retain, seed)
    keep, unseen = rest[:retain], rest[retain:]
    seen = {each.subject for each in keep}
    facts = {(each.relation, each.subject) for each in first}
    worded = [relation for relation in relations if relation.held_out]
    held_out = fact_examples(worded, Templates.HELD_OUT) if worded else []
    return {
        FORGET: first,
        REWORDED: [each for each in held_out if (each.relation, each.subject) in facts],
        RETAIN: keep,
        UNSEEN: [each for each in unseen if each.subject not in seen],
    }


def scores(model: Model, examples: Sequence[Example]) -> list[float]:
    """Share of each answer's tokens that are the model's first choice, in the model as it is."""
    passages = encode_examples(model, examples, "scored")
    return token_scores(Trainee(model), passages)[1].tolist()


def accuracy(model: Model, drawn: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    """The mean score of each set; NaN of an empty one."""
    return {
        name: float(np.mean(scores(model, drawn[name]))) if drawn[name] else np.nan for name in SETS
    }


def unlearned(
    model: Model, method: UnlearnMethod, drawn: Mapping[str, Sequence[Example]], seed: int
) -> dict[str, Any]:
    """One unlearning, and the sets' scores after it; none where it diverged."""
    outcome = unlearn(model, drawn[FORGET], drawn[RETAIN], method, seed=seed)
    after = None
    if outcome.delta is not None:
        with outcome.delta.applied(model):
            after = accuracy(model, drawn)
    return {
        "method": str(method),
        "status": str(outcome.status),
        "after": after,
        "seconds": outcome.details["seconds"],
        "settings": outcome.provenance["settings"],
    }


ANALYSIS = Analysis(
    name="unlearning",
    title="What unlearning forgets",
    question="Are facts forgotten in every wording, and is what was not to be forgotten kept?",
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=2,
    paired=False,
    slow=True,
    scores_edges=lambda config: False,
)
