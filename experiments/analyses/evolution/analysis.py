"""How circuits form while a model is trained: the same questions asked of every checkpoint.

Prompt pairs are those of facts that the *last* model knows, the same for all checkpoints. Every
checkpoint has its own circuit of every relation; each circuit is run in every checkpoint, on
subjects that had no part in finding it (a transplant). Ou et al. 2025 ("How Do LLMs Acquire New
Knowledge?") follow the same quantities over continual pre-training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from circuits.base.errors import NothingFoundError, NumericalError, OptionError, PromptError
from circuits.base.options import Options, option
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.overlap import jaccard, node_jaccard
from circuits.model.metrics import answer_probability, rank
from circuits.model.model import Model
from circuits.model.packaged import embedded_models
from circuits.model.sources import embedded_checkpoints
from experiments.analyses.engine.asking import last_logits
from experiments.analyses.engine.base import Analysis, SkipError
from experiments.analyses.engine.context import Context
from experiments.analyses.evolution.numbers import FINAL, FOUND, RUN
from experiments.analyses.evolution.report import report
from locate.discover import random_circuits
from locate.examples import Examples
from locate.heads.roles import roles_if_any
from locate.search import Search

RELATIONS = (
    "country_capital",
    "person_occupation",
    "company_industry",
    "animal_class",
    "noun_plural",
)
"""Relations of the atlas of different kinds."""
FEWER = 5
"""Random circuits that are run in every checkpoint."""


@dataclass(frozen=True)
class Config(Options):
    """Options; see `kc run --list`."""

    relations: tuple[str, ...] = option(
        RELATIONS, "relations to follow; where the facts lack them, the first five"
    )
    revisions: tuple[str, ...] = option(
        (), "checkpoints in order of training; none given: those that ship with the model"
    )
    pairs: int = option(10, "prompt pairs in each half", low=1)
    edges: int | None = option(None, "edges to select; none: 200, at most a tenth of all", low=1)
    steps: int = option(5, "integration steps of EAP-IG", low=1)
    random_circuits: int = option(20, "random circuits for the level of chance", low=1)


def checkpoints(context: Context, config: Config) -> list[str]:
    """Names of the models to load, in order of training, the model itself last."""
    base = context.model_name
    if config.revisions:
        return [*(f"{base}@{revision}" for revision in config.revisions), base]
    known = list(embedded_checkpoints(base)) if base in embedded_models() else []
    if not known:
        raise OptionError(
            f"no checkpoints of {base!r} ship with this package; name some as the option "
            "revisions, as step1000,step2000"
        )
    return [*(f"{base}@{step}" for step in known), base]


def relations_of(context: Context, config: Config) -> list[str]:
    """The relations to follow that there are facts of."""
    if config.relations != RELATIONS:
        return context.names(config.relations)
    known = [name for name in RELATIONS if name in context.relations]
    return known or context.names()[: len(RELATIONS)]


def steps(context: Context, config: Config) -> list[str]:
    """First every checkpoint's circuits are found, then each is run in every checkpoint."""
    names = [_label(name) for name in checkpoints(context, config)]
    return [f"{FOUND} {name}" for name in names] + [f"{RUN} {name}" for name in names]


def compute(context: Context, config: Config, key: str) -> dict[str, Any]:
    """What one checkpoint's circuits are like, or what all circuits recall in one checkpoint.

    Relations of which too little is known, or whose scores are not finite, are `left_out`, with the
    reason; so are those whose last circuit is empty, for there is nothing to hold the others
    against.
    """
    what, _, label = key.partition(" ")
    name = next(each for each in checkpoints(context, config) if _label(each) == label)
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    relations = relations_of(context, config)
    look = _found if what == FOUND else _run
    for place, relation in enumerate(relations):
        try:
            examples = context.examples(relation, config.pairs)
            if not examples.held_out:
                raise NothingFoundError("the last model knows too few of its facts")
            found[relation] = look(context, config, name, relation, examples)
        except (PromptError, NothingFoundError, NumericalError) as error:
            left_out[relation] = str(error)
        context.progress(place + 1, len(relations))
    if not found:
        raise SkipError("; ".join(f"{relation}: {why}" for relation, why in left_out.items()))
    return {"checkpoint": label, "relations": found, "left_out": left_out}


def marks(context: Context, config: Config) -> dict[str, str]:
    """The checkpoints that are held against each other, in order, and what each holds."""
    return {_label(name): context.identity_of(name) for name in checkpoints(context, config)}


def _label(name: str) -> str:
    """A checkpoint's revision; the model itself is the final one."""
    return name.partition("@")[2] or FINAL


def _circuit(
    context: Context, config: Config, name: str, relation: str, examples: Examples
) -> Circuit:
    """A checkpoint's circuit; only one of the last model must have an edge."""
    search = Search(edges=config.edges, steps=config.steps, resamples=0)
    empty = _label(name) != FINAL
    return context.circuit(
        relation, config.pairs, search, examples=examples, model=name, empty=empty
    )


# --- a checkpoint's circuits ---------------------------------------------------------------------


def _found(
    context: Context, config: Config, name: str, relation: str, examples: Examples
) -> dict[str, Any]:
    """One checkpoint's circuit of one relation, and what the checkpoint knows of its facts."""
    model = context.load(name)
    circuit = _circuit(context, config, name, relation, examples)
    labelled, _ = roles_if_any(
        model,
        examples.pairs,
        circuit=circuit,
        check=False,
        by_example=False,
        batch_size=context.batch_size,
    )
    roles = Counter(str(head.role) for head in labelled.heads) if labelled else {}
    facts = [*examples.pairs, *examples.held_out]
    return {
        "category": context.relations[relation].category,
        "edges": np.flatnonzero(circuit.kept),
        "all_edges": circuit.wiring.n_edges,
        "nodes": circuit.nodes(),
        "entropy": score_entropy(circuit),
        "layers": _edges_by_layer(circuit),
        "roles": dict(roles),
        "facts": [[pair.text.subject, pair.text.answer] for pair in facts],
        "answers": [len(_sharing(context, pair.text.answer)) for pair in facts],
        **_recall(model, facts, context.batch_size),
        **(
            {}
            if _label(name) != FINAL
            else _yardsticks(context, config, relation, examples, circuit)
        ),
    }


def score_entropy(circuit: Circuit) -> float:
    """Entropy in bits of |score| over the circuit's edges, as shares: log2(n) where all are equal.

    NaN for a circuit without scores or whose scores are all 0.
    """
    if circuit.scores is None:
        return float("nan")
    sizes = np.abs(circuit.scores.values[circuit.kept]).astype(np.float64)
    if not sizes.sum():
        return float("nan")
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-(shares * np.log2(shares)).sum())


def _edges_by_layer(circuit: Circuit) -> list[int]:
    """Kept edges by the layer that writes; the first is the embedding."""
    wiring = circuit.wiring
    layers = wiring.src_layers[wiring.edge_src[circuit.kept]]
    counts = np.bincount(layers + 1, minlength=wiring.n_layers + 1)
    return [int(count) for count in counts]


def _sharing(context: Context, answer: str) -> list[str]:
    """Subjects of all relations whose object this is."""
    return [
        fact.subject
        for relation in context.relations.values()
        for fact in relation.facts
        if fact.object == answer
    ]


@torch.no_grad()
def _recall(model: Model, pairs: Sequence[TokenPair], batch_size: int) -> dict[str, Any]:
    """Rank (0 is best) and probability of every fact's answer."""
    logits = last_logits(model, [pair.clean for pair in pairs], batch_size)
    answers = torch.tensor([pair.answer for pair in pairs])
    return {
        "ranks": rank(logits, answers).numpy(),
        "probability": answer_probability(logits, answers).double().numpy(),
    }


def _yardsticks(
    context: Context, config: Config, relation: str, examples: Examples, circuit: Circuit
) -> dict[str, Any]:
    """What an overlap with the last circuit is worth: chance, and a second discovery.

    Chance is the mean overlap of random connected circuits with the last one, the second discovery
    the last model's circuit from the other half of the subjects.
    """
    other = replace(examples, pairs=examples.held_out, held_out=examples.pairs)
    again = _circuit(context, config, context.model_name, relation, other)
    drawn = random_circuits(circuit, config.random_circuits, context.seed)
    return {
        "chance": {
            "edges": float(np.mean([jaccard(circuit, each) for each in drawn])),
            "nodes": float(np.mean([node_jaccard(circuit, each) for each in drawn])),
        },
        "again": {"edges": np.flatnonzero(again.kept), "nodes": again.nodes()},
    }


# --- transplants ---------------------------------------------------------------------------------


def _run(
    context: Context, config: Config, name: str, relation: str, examples: Examples
) -> dict[str, Any]:
    """Every checkpoint's circuit, and random ones, run in this checkpoint on other subjects."""
    names = checkpoints(context, config)
    circuits = [_circuit(context, config, each, relation, examples) for each in names]
    drawn = random_circuits(circuits[-1], min(FEWER, config.random_circuits), context.seed)
    model = context.load(name)
    runs = run_circuits(
        model, examples.held_out, [*circuits, *drawn], batch_size=context.batch_size
    )
    outcomes = dict(zip([_label(each) for each in names], runs.circuits, strict=False))
    random = runs.circuits[len(names) :]
    return {
        "model": _numbers(runs.model),
        "empty": _numbers(runs.empty),
        "circuits": {label: _numbers(outcome) for label, outcome in outcomes.items()},
        "random": {
            "metric": np.mean([outcome.metric for outcome in random], 0),
            "hit": np.mean([outcome.hit for outcome in random], 0),
        },
    }


def _numbers(outcome: Any) -> dict[str, Any]:
    return {"metric": outcome.metric, "hit": outcome.hit.astype(float)}


ANALYSIS = Analysis(
    name="evolution",
    title="How circuits form in training",
    question=(
        "When does a relation's circuit take its final shape, and does it work in the model as it "
        "was earlier?"
    ),
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=2,
    marks=marks,
)
