"""What a circuit does: sentences on discoveries, evaluations, stored circuits, curves, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.intervals import Interval
from locate.looks.says.words import (
    count,
    figure,
    figures,
    model_of,
    percent,
    percents,
    probability,
    prompt,
    quoted,
    sentence,
)

if TYPE_CHECKING:
    from circuits.files.attribution import AttributionGraph
    from circuits.graph.circuit import Circuit
    from circuits.graph.curve import FaithfulnessCurve, FaithfulnessCurves
    from circuits.graph.evaluate import Evaluation
    from circuits.graph.hypothesis import CircuitTests
    from circuits.graph.scores import EdgeScores
    from locate.ask import Asked
    from locate.discovery import Discovery
    from locate.evaluate import StoredEvaluation
    from locate.mib.board import BoardScores

GOAL = 0.9
"""The share of what the model does that a sentence on a curve asks for."""
STRONGEST = 10
"""Edges whose part of the score mass is named."""
WHERE = {
    "other subjects": "subjects they were not found on",
    "other pairs": "prompt pairs they were not found on",
    "pairs that found it": "the very pairs that found them",
    "subjects that found it": "subjects that found them, asked otherwise",
    "all pairs": "pairs of which some found them",
}


def where(side: object) -> str:
    """What a sentence calls the pairs of a side; of others nobody knows whether they found it."""
    return WHERE.get(str(side), "pairs that may have found them")


def discovery(found: Discovery) -> str:
    """Of a discovery: size, faithfulness where the circuit was not found, random circuits."""
    side, measured = list(found.sides().items())[-1]
    asked = f"{found.examples.name}, {where(side)}"
    return _does(measured, found.circuit.wiring.n_edges, found.model, asked)


def stored_evaluation(found: StoredEvaluation) -> str:
    """Of a stored circuit on pairs: the same."""
    side, measured = list(found.sides().items())[-1]
    asked = f"{found.examples.name}, {where(side)}"
    return _does(measured, found.circuit.wiring.n_edges, found.model, asked)


def asked(found: Asked) -> str:
    """Of one prompt: what the model says, and where its circuit's strongest edge is."""
    says, share = found.answers.tokens[0], found.answers.probabilities[0]
    text = (
        f"asked {prompt(found.question.prompt)}, {model_of({'model': found.model.name})} says "
        f"{quoted(says)} (p {probability(share)})"
    )
    strongest = found.circuit.strongest(1)
    if not strongest:
        return sentence(text)
    edge = strongest[0][0]
    return sentence(
        f"{text}; of {count(found.circuit.wiring.n_edges, 'edge')} {edge} counts most, and nothing "
        "says yet that the circuit suffices: `evaluate` measures that"
    )


def circuit(found: Circuit) -> str:
    """Of a stored circuit: what was measured on it when it was found, if anything was."""
    known = _stored(found)
    size = f"{found.n_edges:,} of {count(found.wiring.n_edges, 'edge')}"
    if known is None:
        return sentence(f"{size} are kept; the circuit does not say how well they do")
    side, faithfulness, random = known
    origin = found.provenance
    relation = origin.get("relation")
    asked = f"{relation}, {WHERE[side]}" if isinstance(relation, str) else WHERE[side]
    return _sentence(size, found.n_edges, model_of(origin), asked, faithfulness, random)


def evaluation(found: Evaluation) -> str:
    """Of bare measures."""
    size, asked = count(found.n_edges, "edge"), count(found.n_pairs, "prompt pair")
    return _sentence(
        size, found.n_edges, "the model", asked, found.faithfulness, found.random_faithfulness
    )


def tests(found: CircuitTests) -> str:
    """Of tests: what the first of them says, which compares with the model."""
    return sentence(f"on {count(found.n_facts, 'fact')}: {found.tests[0].sentence}")


def curve(found: FaithfulnessCurve) -> str:
    """Of one curve: the fewest edges that do most of what the model does."""
    return _curve(found, None, "")


def curves(found: FaithfulnessCurves) -> str:
    """Of curves: the same of the first, beside as many random edges, and how many others need."""
    from circuits.graph.curve import BASELINE

    named = {name: each for name, each in found.curves.items() if name != BASELINE}
    if not named:
        return ""
    side = found.provenance.get("measured_on")
    asked = f" on {WHERE[side]}" if isinstance(side, str) and side in WHERE else ""
    (name, first), *others = named.items()
    beside = ", ".join(f"with {each} {_needs(curve)}" for each, curve in others)
    return _curve(
        first,
        found.curves.get(BASELINE),
        asked,
        (f"with {name}, ", f"; {beside}") if others else ("", ""),
    )


def scores(found: EdgeScores) -> str:
    """Of scores: the strongest edge, and how much of all the ten strongest hold."""
    total = float(np.abs(found.values).sum(dtype=np.float64))
    if not total:
        return sentence(f"all {count(found.wiring.n_edges, 'edge')} score 0")
    n = min(STRONGEST, found.wiring.n_edges)
    top = float(np.sort(np.abs(found.values.astype(np.float64)))[-n:].sum())
    edge = int(np.abs(found.values).argmax())
    value = float(found.values[edge])
    side = ""
    if found.meaning.has_sign:
        side = f": it {'supports' if value > 0 else 'opposes'} the answer"
    held, equal = percent(top / total), percent(n / found.wiring.n_edges)
    return sentence(
        f"of {count(found.wiring.n_edges, 'edge')} {found.wiring.edge_name(edge)} has the largest "
        f"score, {figure(value)}{side}; the {n} largest hold {held} of all "
        f"|score|, where equal ones would hold {equal}"
    )


def board(found: BoardScores) -> str:
    """Of MIB's scores: what they are, on whom, and what perfect ones would be."""
    asked = f"{found.examples.name}, {where(found.measured_on)}"
    return sentence(
        f"CPR {figures(found.cpr, 3)} and CMD {figures(found.cmd, 3)} on "
        f"{count(len(found.examples.pairs), 'pair')} ({asked}), where "
        "circuits that do all that the model does at every size would have 1 and 0"
    )


def _does(measured: Evaluation, n_edges: int, model: str, asked: str) -> str:
    size = f"{measured.n_edges:,} of {count(n_edges, 'edge')}"
    numbers = measured.faithfulness, measured.random_faithfulness
    return _sentence(size, measured.n_edges, model_of({"model": model}), asked, *numbers)


def _sentence(
    size: str, n_edges: int, model: str, asked: str, faithfulness: Interval, random: Interval
) -> str:
    """What so many edges alone do, against random circuits; `asked` says of what and of whom."""
    if not np.isfinite(faithfulness.value):
        return sentence(
            f"no evidence on what {size} do ({asked}): {model} as a whole does there no better "
            "than with every edge cut"
        )
    does = percents(faithfulness)
    if not n_edges:
        return sentence(f"no edge is kept, and so nothing of what {model} does ({asked})")
    if not np.isfinite(random.value):
        return sentence(
            f"{size} alone do {does} of what {model} does ({asked}); no random circuits are known "
            "to compare with"
        )
    if not np.isfinite(faithfulness.low):
        return sentence(
            f"{size} alone do {does} of what {model} does ({asked}), random circuits of that size "
            f"{percent(random.value)}: too few facts to say how sure that is"
        )
    highest = random.high if np.isfinite(random.high) else random.value
    if faithfulness.low <= highest:
        return sentence(
            f"no evidence that {size} do more of what {model} does than random circuits of that "
            f"size ({asked}): {does} against {percents(random)}"
        )
    return sentence(
        f"{size} alone do {does} of what {model} does ({asked}); random circuits of that size "
        f"{percent(random.value)}"
    )


def _stored(found: Circuit) -> tuple[str, Interval, Interval] | None:
    """The side, the faithfulness there and that of random circuits, as the file has them.

    A file without evidence may name the faithfulness alone.
    """
    side = found.provenance.get("faithfulness_on")
    if not isinstance(side, str) or side not in WHERE:
        side = "other subjects" if found.evidence.get("held_out") else "pairs that found it"
    if not found.measured:
        alone = found.provenance.get("faithfulness")
        if isinstance(alone, bool) or not isinstance(alone, int | float):
            return None
        return side, Interval(float(alone), np.nan, np.nan), Interval(np.nan, np.nan, np.nan)
    does, random = found.measure("faithfulness"), found.measure("random_faithfulness")
    return None if does is None or random is None else (side, does, random)


def _needs(found: FaithfulnessCurve) -> str:
    """The fewest edges of another curve that do as much."""
    enough = [
        size
        for size, point in zip(found.sizes, found.faithfulness, strict=True)
        if point.value >= GOAL
    ]
    return count(enough[0], "edge") if enough else "no size does"


def _curve(
    found: FaithfulnessCurve,
    random: FaithfulnessCurve | None,
    where: str,
    around: tuple[str, str] = ("", ""),
) -> str:
    """Of a curve on what `where` says; `around` stands before and after where there are others."""
    values = [point.value for point in found.faithfulness]
    defined = [at for at, value in enumerate(values) if np.isfinite(value)]
    if not defined:
        return sentence(
            f"no evidence on how many edges are needed{where}: the whole model does no better than "
            "with every edge cut"
        )
    enough = next((at for at in defined if values[at] >= GOAL), None)
    at = max(defined, key=lambda place: values[place]) if enough is None else enough
    size = f"{found.sizes[at]:,} edges ({percent(found.fractions[at])})"
    text = f"{size} are the fewest of {len(values)} sizes that do {percent(GOAL)} of what the model"
    text += f" does{where}"
    if enough is None:
        text = (
            f"none of {len(values)} sizes does {percent(GOAL)} of what the model does{where}; "
            f"{size} do most"
        )
    text += f": {percents(found.faithfulness[at])}"
    return sentence(around[0] + text + _as_many(random, at) + around[1])


def _as_many(random: FaithfulnessCurve | None, at: int) -> str:
    if random is None or at >= len(random.sizes):
        return ""
    value: Any = random.faithfulness[at].value
    return f"; as many random edges {percent(value)}" if np.isfinite(value) else ""


def graph(found: AttributionGraph) -> str:
    """Another tool's attribution graph: its size, and the path that carries most."""
    origin = found.metadata
    size = f"{count(len(found.nodes), 'node')} and {count(len(found.weight), 'link')}"
    told = f"{quoted(str(origin['prompt']))} in {origin['scan']} has {size}"
    paths = found.paths(1)
    if not paths:
        return sentence(f"{told}; no path leads to an answer")
    place = {node["node_id"]: at for at, node in enumerate(found.nodes)}
    names = " → ".join(found.name(place[each]) for each in paths[0].nodes)
    share = percent(paths[0].share)
    return sentence(f"{told}; the strongest path, {names}, has {share} of the input of its end")
