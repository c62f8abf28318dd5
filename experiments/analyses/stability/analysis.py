"""Does a circuit stand under other choices of the analyst?

For each relation a base circuit is found, then circuits with one choice changed at a time, and
circuits with all choices drawn at random together. All select the same number of edges, and all
are measured alike, on the same pairs of subjects that had no part in finding any of them. The
changes one by one say which edges a choice costs; the drawn combinations say which edges nearly all
of them keep (core), which at least half (contingent) and which fewer (noise), and how much of the
differences goes with each choice (Méloux et al. 2026, arXiv:2510.00845, on variance by source;
CIRCUS 2026, arXiv:2603.00523, on consensus over choices).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from circuits.base.errors import ModelNotFoundError, NumericalError, OptionError
from circuits.graph.agreement import rank_correlation
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import Runs, run_circuits
from circuits.graph.overlap import node_jaccard
from circuits.graph.resample import CORE, Stability, classify
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune, random_circuit, top_n
from experiments.analyses.engine.base import Analysis, SkipError
from experiments.analyses.engine.context import Context
from experiments.analyses.stability.choices import (
    FEWEST_DRAWS,
    Config,
    Setting,
    base_of,
    drawn,
    levels,
    one_at_a_time,
    search_of,
)
from experiments.analyses.stability.prompts import examples_of
from experiments.analyses.stability.report import report
from experiments.analyses.stability.variance import products
from locate.discover import NO_PATH

MOST_LISTED = 400
"""Edges that are stored by name."""


def steps(context: Context, config: Config) -> list[str]:
    """One unit a relation; OptionError where the model cannot be had in the other precisions."""
    if "dtype" in levels(config, context):
        try:
            context.check_precision()
        except (ModelNotFoundError, OptionError) as error:
            raise OptionError(f"{error}; or leave `dtypes` empty") from None
    return context.names(config.relations, config.most)


def compute(context: Context, config: Config, key: str) -> dict[str, Any]:
    """One relation: the base circuit and its counterparts, compared and measured."""
    tested = context.examples(key, config.pairs).held_out
    if not tested:
        raise SkipError("too few facts are known to test a circuit on subjects of its own")
    known = levels(config, context)
    single = one_at_a_time(known, config)
    combined = drawn(known, config, context.seed)
    settings = [base_of(known), *(setting for *_, setting in single), *combined]
    names = ["base", *(f"{factor} {level}" for factor, level, _ in single)]
    names += [f"combination {number}" for number in range(1, len(combined) + 1)]
    tried: list[EdgeScores | NumericalError] = []
    for place, setting in enumerate(settings):
        tried.append(_scores(context, config, key, tested, setting, place, len(settings)))
        if isinstance(tried[0], NumericalError):  # nothing can be compared with it
            raise tried[0]
    left_out = [
        {"circuit": name, "setting": setting, "reason": f"left out: {error}"}
        for name, setting, error in zip(names, settings, tried, strict=True)
        if isinstance(error, NumericalError)
    ]
    there = [place for place, each in enumerate(tried) if isinstance(each, EdgeScores)]
    first = 1 + len(single)
    single = [single[place - 1] for place in there if 0 < place < first]
    combined = [combined[place - first] for place in there if place >= first]
    names = [names[place] for place in there]
    settings = [settings[place] for place in there]
    scores = [each for each in tried if isinstance(each, EdgeScores)]
    if len(combined) < FEWEST_DRAWS:
        raise SkipError(
            f"{len(combined)} combinations of choices have finite scores, and {FEWEST_DRAWS} are "
            f"needed; the first of the others: {left_out[0]['reason']}"
        )
    wiring = scores[0].wiring
    n = search_of(settings[0], config).n_edges(wiring)
    chosen = [top_n(each, n) for each in scores]
    ranks = np.stack([rankdata(np.abs(each.values)) for each in scores]) / wiring.n_edges
    first = 1 + len(single)
    kept = np.stack([each.kept for each in chosen[first:]])
    consensus = _consensus(kept, ranks[first:], n)
    core = Circuit(wiring, kept.mean(0) >= CORE)
    generator = np.random.default_rng(context.seed)
    pruned = [prune(each) for each in chosen]
    extra = [prune(Circuit(wiring, consensus)), prune(core)]
    size = max(1, pruned[0].n_edges)
    random = [random_circuit(wiring, size, generator) for _ in range(config.random_circuits)]
    runs = run_circuits(
        context.model, tested, [*pruned, *extra, *random], batch_size=context.batch_size
    )
    faithful = np.array([runs.faithfulness(i, resamples=0).value for i in range(len(pruned))])
    node_names = [set(each.nodes()) for each in pruned]
    return {
        "edges": n,
        "all_edges": wiring.n_edges,
        "pairs": len(tested),
        "factors": known,
        "base": _measured(runs, 0, pruned[0]),
        "consensus": _measured(runs, len(pruned), extra[0]),
        "core": _measured(runs, len(pruned) + 1, extra[1]) if extra[1].n_edges else None,
        "random": float(
            np.mean([runs.faithfulness(i, resamples=0).value for i in _last(runs, random)])
        ),
        "consensus_gains": runs.difference(len(pruned), 0, seed=context.seed),
        "core_lacks": runs.difference(0, len(pruned) + 1, seed=context.seed),
        "single": [
            {
                "factor": factor,
                "level": level,
                "jaccard": _jaccard(chosen[0].kept, chosen[place].kept),
                "node_jaccard": node_jaccard(pruned[0], pruned[place]),
                "spearman": rank_correlation(ranks[0], ranks[place]).spearman,
                "faithfulness": faithful[place],
            }
            for place, (factor, level, _) in enumerate(single, 1)
        ],
        "survive": {
            factor: _survive(chosen, places)
            for factor in known
            if (places := [i for i, (name, *_) in enumerate(single, 1) if name == factor])
        },
        "draws": {
            "levels": {factor: [setting[factor] for setting in combined] for factor in known},
            "jaccard": [_jaccard(chosen[0].kept, each) for each in kept],
            "faithfulness": faithful[first:],
            "products": {
                "edges": products(kept.astype(float)),
                "ranks": products(ranks[first:]),
                "faithfulness": products(faithful[first:, None]),
            },
        },
        "labels": {
            "edges": _labels(kept.mean(0)[kept.any(0)]),
            "base_edges": _labels(kept.mean(0)[chosen[0].kept]),
            "nodes": _labels(_node_inclusion(node_names[first:], set().union(*node_names[first:]))),
            "base_nodes": _labels(_node_inclusion(node_names[first:], node_names[0])),
        },
        "empty": [
            {"circuit": name, "setting": setting, "reason": NO_PATH}
            for name, setting, each in zip(names, settings, pruned, strict=False)
            if not each.n_edges
        ],
        "left_out": left_out,
        "listed": _listed(chosen, kept.mean(0), [factor for factor, *_ in single]),
    }


def _scores(
    context: Context,
    config: Config,
    key: str,
    tested: Sequence[Any],
    setting: Setting,
    place: int,
    total: int,
) -> EdgeScores | NumericalError:
    """A setting's scores, found and stored once, also where the circuit that they give is empty.

    The error where they are not finite, as in a narrow precision.
    """
    examples = examples_of(context, key, tested, setting, config.pairs)
    within = context.in_dtype(setting.get("dtype", context.dtype))
    search = search_of(setting, config)
    try:
        circuit = within.circuit(key, None, search, examples=examples, empty=True)
    except NumericalError as error:
        return error
    finally:
        context.progress(place + 1, total)
    assert circuit.scores is not None, "a locator that selects is refused"
    return circuit.scores


def _consensus(
    kept: Bool[np.ndarray, "draw edge"], ranks: Float[np.ndarray, "draw edge"], n: int
) -> Bool[np.ndarray, " edge"]:
    """The n edges that most combinations keep; among equals those of the higher mean rank."""
    order = np.lexsort((-ranks.mean(0), -kept.mean(0)))
    found = np.zeros(kept.shape[1], dtype=bool)
    found[order[:n]] = True
    return found


def _measured(runs: Runs, place: int, circuit: Circuit) -> dict[str, Any]:
    return {
        "edges": circuit.n_edges,
        "nodes": len(circuit.nodes()),
        "faithfulness": runs.faithfulness(place),
    }


def _last(runs: Runs, circuits: Sequence[Circuit]) -> range:
    return range(len(runs.circuits) - len(circuits), len(runs.circuits))


def _jaccard(one: Bool[np.ndarray, " edge"], other: Bool[np.ndarray, " edge"]) -> float:
    return float((one & other).sum() / (one | other).sum())


def _survive(chosen: Sequence[Circuit], places: Sequence[int]) -> dict[str, int]:
    """How many of the base's edges all levels of a factor keep, some of them, and none."""
    share = np.mean([chosen[place].kept for place in places], 0)[chosen[0].kept]
    whole, none = int((share == 1).sum()), int((share == 0).sum())
    return {"all": whole, "some": len(share) - whole - none, "none": none}


def _labels(inclusion: Sequence[float] | Float[np.ndarray, " item"]) -> dict[str, int]:
    """How many are core, contingent and noise."""
    counts = Counter(classify(float(share)) for share in inclusion)
    return {str(label): counts[label] for label in Stability}


def _node_inclusion(found: Sequence[set[str]], names: set[str]) -> list[float]:
    return [float(np.mean([name in each for each in found])) for name in sorted(names)]


def _listed(
    chosen: Sequence[Circuit], inclusion: Float[np.ndarray, " edge"], factors: Sequence[str]
) -> list[dict[str, Any]]:
    """The base's edges and those that half of the combinations keep, the most kept first."""
    base, wiring = chosen[0].kept, chosen[0].wiring
    places = np.flatnonzero(base | (inclusion >= 0.5))
    order = places[np.argsort(-inclusion[places], kind="stable")][:MOST_LISTED]
    found = []
    for edge in order.tolist():
        lost = [
            factor
            for factor, each in zip(factors, chosen[1:], strict=False)
            if base[edge] and not each.kept[edge]
        ]
        found.append(
            {
                "edge": wiring.edge_name(edge),
                "inclusion": float(inclusion[edge]),
                "label": str(classify(float(inclusion[edge]))),
                "in_base": bool(base[edge]),
                "lost": list(dict.fromkeys(lost)),
            }
        )
    return found


ANALYSIS = Analysis(
    name="stability",
    title="Circuits under other choices",
    question=(
        "Which edges of a circuit stay when wording, prompts, locator, metric and other choices of "
        "the analyst change, and which choice decides most?"
    ),
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    slow=True,
)
