"""Edits and circuits: what edit methods change at early, usual and late layers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from circuits.base.choices import Control
from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.base.options import Options, option
from circuits.edits.effects.control import control, control_seed
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.rome import RomeSettings
from circuits.edits.methods.run import EditOutcome, edit, share_moments
from circuits.edits.settings import settings_for
from circuits.model.model import Model
from experiments.analyses.edit_effects.measures import EditedFact
from experiments.analyses.edit_effects.numbers import PLACES
from experiments.analyses.edit_effects.prompts import request_of
from experiments.analyses.edit_effects.report import report
from experiments.analyses.engine.base import Analysis, Part, SkipError
from experiments.analyses.engine.context import Context


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    relations: tuple[str, ...] = option((), "relations to edit facts of; none named: all")
    facts: int = option(
        6, "facts that are edited, one after the other, each on the unedited model", low=1
    )
    methods: tuple[EditMethod, ...] = option(
        (EditMethod.ROME, EditMethod.MEMIT, EditMethod.FT_M, EditMethod.ALPHAEDIT), "edit methods"
    )
    layers: tuple[int, ...] = option(
        (),
        "early, usual and late layer; none given: a third of ROME's, ROME's, the last but one",
        low=0,
    )
    partners: int = option(6, "corrupted subjects a fact, for the edges' scores", low=2)
    neighbours: int = option(8, "other subjects of the relation that should not change", low=0)
    steps: int = option(3, "integration steps of EAP-IG", low=1)
    role_pairs: int = option(
        12, "prompt pairs a relation from which roles of heads are read", low=1
    )
    controls: bool = option(True, "beside each edit a random change of its size and keys")


def steps(context: Context, config: Config) -> Sequence[str]:
    """One unit a fact; which fact it is depends on what the model knows."""
    chosen_layers(context.model, config)
    context.names(config.relations)
    return [f"fact {at + 1}" for at in range(config.facts)]


def candidates(context: Context, config: Config, index: int) -> list[tuple[str, int]]:
    """Relations, and numbers of their facts, of which the unit edits the first that is known.

    All units' candidates together are the relations in an order drawn by the seed, each once before
    any comes again. A unit whose relation is not known goes on to one that is no other unit's.
    """
    names = context.names(config.relations)
    random.Random(f"{context.seed}/edits").shuffle(names)
    places = range(index, max(len(names), config.facts), config.facts)
    return [(names[at % len(names)], at // len(names)) for at in places]


def prepare(context: Context, config: Config) -> None:
    """Second moments of the three layers, in one pass over the text."""
    layers = chosen_layers(context.model, config)
    share_moments(context.model, config.methods, layers, context.progress)


def compute(context: Context, config: Config, key: str) -> Part:
    """The first of the unit's candidates that can be edited, by every method at every layer."""
    reasons = []
    for name, number in candidates(context, config, int(key.rpartition(" ")[2]) - 1):
        try:
            return _of_fact(context, config, name, number)
        except SkipError as error:
            reasons.append(str(error))
    raise SkipError("; ".join(reasons))


def _of_fact(context: Context, config: Config, name: str, number: int) -> dict[str, Any]:
    request = request_of(context.model, context.relations[name], number, context.seed)
    if request is None:
        raise SkipError(f"{name}: the model knows no (further) fact that could be edited")
    try:
        fact = EditedFact(
            context.model,
            request,
            context.relations[name],
            list(context.relations.values()),
            context.roles(name, config.role_pairs),
            partners=config.partners,
            neighbours=config.neighbours,
            steps=config.steps,
            seed=context.seed,
            batch_size=context.batch_size,
        )
    except (OptionError, PromptError) as error:
        raise SkipError(f"{name}: {error}") from None
    edits = []
    layers, methods = chosen_layers(context.model, config), list(dict.fromkeys(config.methods))
    for method in methods:
        for place, layer in zip(PLACES, layers, strict=True):
            edits.append(_edited(context, config, fact, method, place, layer))
            context.progress(len(edits), len(methods) * len(layers))
    return {
        "request": {
            "prompt": request.text,
            "old": request.ground_truth,
            "new": request.target,
            "relation": name,
        },
        "unedited": fact.unedited(),
        "edits": edits,
    }


def chosen_layers(model: Model, config: Config) -> tuple[int, int, int]:
    """Early, usual and late; OptionError unless three layers of the model are given or none."""
    if config.layers:
        if len(config.layers) != 3 or not all(0 <= x < model.n_layers for x in config.layers):
            raise OptionError(
                f"layers takes three of 0 to {model.n_layers - 1}: an early, the usual and a late "
                f"one, not {', '.join(map(str, config.layers))}"
            )
        early, usual, late = config.layers
        return early, usual, late
    settings, _ = settings_for(model, EditMethod.ROME, RomeSettings)
    usual = settings.layers[-1]
    return usual // 3, usual, max(usual, model.n_layers - 2)


def _edited(
    context: Context, config: Config, fact: EditedFact, method: EditMethod, place: str, layer: int
) -> dict[str, Any]:
    model = context.model
    outcome: EditOutcome = edit(model, fact.request, method, layers=[layer], seed=context.seed)
    found: dict[str, Any] = {
        "method": str(method),
        "place": place,
        "layer": layer,
        "status": str(outcome.status),
        "seconds": outcome.details.get("seconds"),
        "norm": outcome.details.get("norm"),
        "in_circuit": fact.unedited()["mlp_mass"][layer],
        "effect": None,
        "control": None,
    }
    if outcome.delta is None:
        return found
    try:
        found["effect"] = fact.measured(outcome.delta, layer)
        if config.controls:
            seed = control_seed(context.seed, fact.request)
            beside = control(outcome.delta, model, seed, Control.SAME_KEYS)
            found["control"] = fact.measured(beside, layer)
    except NumericalError as error:
        found["status"] = f"diverged: {error}"
    return found


ANALYSIS = Analysis(
    name="edit-effects",
    title="What edits do to a circuit",
    question="Which parts of a circuit say the new object after an edit, what else changes, and "
    "does the circuit tell which edits fail?",
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=3,
    prepare=prepare,
)
