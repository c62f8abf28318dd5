"""The circuit of every relation: what it recalls alone, how stable it is, what its heads do.

For each relation half of the known subjects find the circuit (validation half) and the others test
it; each half is scored with its own answers. Random connected circuits of the same size, a curve
over ten sizes and the ablation of labelled heads stand beside it (Yao et al. 2024, tables 1 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuits.base.choices import Metric, Ranking
from circuits.base.intervals import Interval, bootstrap_means
from circuits.base.options import Options, option
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.curve import FRACTIONS
from circuits.graph.curves import faithfulness_curve
from circuits.graph.evaluate import evaluate, run_circuits
from circuits.graph.scores import EdgeScores
from circuits.graph.select import top_n
from circuits.model.model import Model
from experiments.analyses.circuits.report import report
from experiments.analyses.engine.base import Analysis, SkipError
from experiments.analyses.engine.claims import average
from experiments.analyses.engine.config import relations_drawn
from experiments.analyses.engine.context import Context
from locate.discover import random_circuits, stability_of
from locate.examples import Examples
from locate.heads.head_check import EFFECTS
from locate.heads.head_role import HeadRole
from locate.heads.role_checks import ablate_heads, judge, nearest_controls
from locate.heads.roles import head_roles
from locate.search import Search

FEWER = 5
"""Random circuits on the validation half, where they matter less."""
CONTROLS = 4
"""Unlabelled heads that a labelled one is compared with."""
_ANSWER_GAP, _RANGE_GAP = 0, 1
"""Places of the two effects in `EFFECTS` that labels are judged by."""
_JUDGED_BY = {"mover": _ANSWER_GAP, "relation": _RANGE_GAP}


@dataclass(frozen=True)
class Config(Options):
    """Options; see `kc run --list`."""

    relations: tuple[str, ...] = option((), "relations to look at; none given: all", selects=True)
    most: int | None = relations_drawn()
    pairs: int = option(12, "prompt pairs in each half", low=1)
    edges: int | None = option(None, "edges to select; none: 200, at most a tenth of all", low=1)
    faithfulness: float | None = option(
        None,
        "instead of a number of edges, the smallest circuit this faithful to its own half",
        low=0.05,
        high=1.0,
    )
    steps: int = option(5, "integration steps of EAP-IG", low=1)
    resamples: int = option(200, "resamples of the pairs for the stability of edges", low=0)
    random_circuits: int = option(20, "random circuits of the same size to compare with", low=1)
    curve: bool = option(True, "measure ten circuit sizes, for CPR and CMD")
    roles: bool = option(True, "label mover, relation and mixture heads, and check the labels")


def steps(context: Context, config: Config) -> list[str]:
    """One unit a relation."""
    return context.names(config.relations, config.most)


def compute(context: Context, config: Config, key: str) -> dict[str, Any]:
    """Everything about one relation's circuit."""
    relation = context.relations[key]
    examples = context.examples(key, config.pairs)
    if not examples.held_out:
        raise SkipError(f"too few facts are known to test the circuit: {examples.counts['known']}")
    search = Search(
        edges=config.edges,
        faithfulness=config.faithfulness,
        steps=config.steps,
        resamples=config.resamples,
    )
    circuit = context.circuit(key, config.pairs, search)
    model = context.model
    drawn = random_circuits(circuit, config.random_circuits, context.seed)
    halves = {}
    for name, pairs in (("validation", examples.pairs), ("test", examples.held_out)):
        found = evaluate(
            model,
            pairs,
            circuit,
            random_circuits=drawn if name == "test" else drawn[:FEWER],
            batch_size=context.batch_size,
            seed=context.seed,
            progress=context.progress,
        )
        halves[name] = found.as_dict()
    result = {
        "category": relation.category,
        "facts": examples.counts,
        "objects": len(relation.objects()),
        "edges": circuit.n_edges,
        "nodes": len(circuit.nodes()),
        "all_edges": circuit.wiring.n_edges,
        "halves": halves,
        "stability": _stability(circuit),
        "layers": _by_layer(circuit),
    }
    if config.curve and circuit.scores is not None:
        result["curve"] = curves(context, examples.held_out, circuit.scores)
    if config.roles:
        result["roles"] = checked_roles(model, examples, circuit, context.seed, context.batch_size)
    return result


def _stability(circuit: Circuit) -> dict[str, Any] | None:
    """How many kept edges are core, contingent and noise, and the mean inclusion."""
    inclusion = circuit.columns.get("inclusion")
    if inclusion is None:
        return None
    return {**stability_of(circuit), "inclusion": inclusion[circuit.kept].mean()}


def _by_layer(circuit: Circuit) -> dict[str, list[float]]:
    """By layer: the share of its heads in the circuit, its MLP in it or not, the edges it sends."""
    wiring = circuit.wiring
    nodes = set(circuit.nodes())
    sends = np.bincount(wiring.src_layers[wiring.edge_src[circuit.kept]] + 1)
    sends = np.pad(sends, (0, wiring.n_layers + 1 - len(sends)))
    heads = [
        np.mean([f"a{layer}.h{head}" in nodes for head in range(wiring.n_heads)])
        for layer in range(wiring.n_layers)
    ]
    mlps = [float(f"m{layer}" in nodes) for layer in range(wiring.n_layers)]
    return {"heads": [float(x) for x in heads], "mlp": mlps, "edges": sends[1:].tolist()}


def curves(
    context: Context,
    pairs: Sequence[TokenPair],
    scores: EdgeScores,
    metric: Metric = Metric.LOGIT_DIFFERENCE,
) -> dict[str, dict[str, Any]]:
    """CPR of the signed and CMD of the absolute ranking, beside a random one, on these pairs."""
    total = scores.wiring.n_edges
    sizes = sorted({max(1, round(share * total)) for share in FRACTIONS})
    shuffled = np.random.default_rng(context.seed).permutation(total) + 1.0
    families = {
        "signed": [top_n(scores, size, Ranking.SIGNED) for size in sizes],
        "absolute": [top_n(scores, size, Ranking.ABSOLUTE) for size in sizes],
        "random": [top_n(replace(scores, values=shuffled), size) for size in sizes],
    }
    everything = [circuit for family in families.values() for circuit in family]
    runs = run_circuits(
        context.model, pairs, everything, metric=metric, batch_size=context.batch_size
    )
    found = {}
    for place, (name, family) in enumerate(families.items()):
        own = replace(runs, circuits=runs.circuits[place * len(sizes) : (place + 1) * len(sizes)])
        curve = faithfulness_curve(own, family, seed=context.seed)
        found[name] = {
            "fractions": curve.fractions,
            "faithfulness": [point.value for point in curve.faithfulness],
            "area": curve.area,
            "distance": curve.distance,
        }
    return found


def checked_roles(
    model: Model, examples: Examples, circuit: Circuit, seed: int, batch_size: int
) -> dict[str, Any]:
    """Labels found on one half of the subjects, and what silencing the heads does on the other.

    Each labelled head stands against unlabelled heads of the layers nearest to its own, silenced
    the same way: `control` is what their loss does on average. `costs` is by role how much more
    the loss of its heads takes than that of their controls, on average, over the pairs.
    """
    found = head_roles(
        model, examples.pairs, check=False, by_example=False, batch_size=batch_size, seed=seed
    )
    has_role = np.zeros((model.n_layers, model.n_heads), dtype=bool)
    for head in found.labelled:
        has_role[head.layer, head.head] = True
    inside = set(circuit.nodes())
    labelled = [head for head in found.labelled if head.name in inside]
    own = nearest_controls([(h.layer, h.head) for h in labelled], has_role, CONTROLS, seed)
    controls = list(dict.fromkeys(site for each in own.values() for site in each))
    sites = [*own, *controls]
    effects = np.zeros((len(examples.held_out), 0, len(EFFECTS)), dtype=np.float32)
    if sites:
        effects = ablate_heads(model, examples.held_out, sites, batch_size=batch_size)
    place = {site: at for at, site in enumerate(sites)}
    heads, lost = [], dict[str, list[np.ndarray]]()
    for head in labelled:
        site = head.layer, head.head
        silenced, usual = effects[:, place[site]], effects[:, [place[each] for each in own[site]]]
        heads.append(_checked(head, silenced, usual, seed))
        lost.setdefault(str(head.role), []).append(usual.mean(1) - silenced)
    costs = {
        role: average(np.mean(lost[role], 0)[:, at], seed=seed)
        for role, at in _JUDGED_BY.items()
        if role in lost and controls
    }
    return {"heads": heads, "controls": len(controls), "costs": costs}


def _checked(head: HeadRole, own: np.ndarray, usual: np.ndarray, seed: int) -> dict[str, Any]:
    """One head's label and what its loss does, pair by pair minus the mean of the controls."""

    def summary(values: np.ndarray) -> dict[Any, Any]:
        limits = np.stack(bootstrap_means(values, seed=seed), -1)
        return {
            name: Interval(*(float(x) for x in limits[place])) for place, name in enumerate(EFFECTS)
        }

    effects = summary(own)
    control = usual.mean((0, 1)) if usual.shape[1] else np.full(len(EFFECTS), np.nan)
    excess = summary(own - usual.mean(1)) if usual.shape[1] else None
    return {
        "name": head.name,
        "role": str(head.role),
        "score": head.score,
        "answer_gap": effects[EFFECTS[_ANSWER_GAP]],
        "range_gap": effects[EFFECTS[_RANGE_GAP]],
        "control": {"answer_gap": control[_ANSWER_GAP], "range_gap": control[_RANGE_GAP]},
        "verdict": str(judge(head.role, effects, excess)),
        "written": list(head.written),
    }


ANALYSIS = Analysis(
    name="circuits",
    title="Circuits of every relation",
    question=(
        "How much of what the model recalls does a small circuit recall alone, on subjects that "
        "had no part in finding it?"
    ),
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=3,
)
