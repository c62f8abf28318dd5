"""One small result of every kind, with hostile text wherever a model or file may put its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from circuits.base.choices import EditStatus, TraceKind
from circuits.base.intervals import UNDEFINED, Interval
from circuits.edits.edit import EditRequest, LowRank, WeightDelta
from circuits.edits.methods.run import EditOutcome
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.curve import FaithfulnessCurve, FaithfulnessCurves
from circuits.graph.evaluate import Evaluation
from circuits.graph.scores import EdgeScores
from circuits.model.tokens import Prompt, Span
from circuits.model.wiring import Wiring
from locate.changes.rewired import FollowedObjects, Rewiring
from locate.features.carriers import Carriers
from locate.heads.by_example import ByExample, Example
from locate.heads.heads_on_prompts import HeadsOnPrompts, PromptHeads
from locate.heads.readings import REGIONS, HeadReadings
from locate.heads.role_criteria import RoleCriteria
from locate.heads.role_report import RoleReport
from locate.heads.roles import label_heads
from locate.neurons.report import NeuronReport, Reading
from locate.states.lens_curves import AverageLens, Followed, Place
from locate.states.lens_result import LensResult
from locate.states.trace_result import Trace
from locate.states.trace_roles import ROLES, AverageTrace

HOSTILE = "<script>alert('&')</script>\x00\n\u202e$x$"
WIRING = Wiring(2, 2, 2)
ORIGIN = {"model": HOSTILE, "relation": HOSTILE, "method": HOSTILE}


def scores(seed: int = 0) -> EdgeScores:
    values = np.random.default_rng(seed).normal(size=WIRING.n_edges)
    return EdgeScores(WIRING, values, provenance=ORIGIN)


def circuit(seed: int = 0) -> Circuit:
    kept = np.random.default_rng(seed).random(WIRING.n_edges) < 0.7
    roles = {"a1.h0": "mover", "a0.h1": HOSTILE}
    return Circuit(WIRING, kept, scores(seed), roles=roles, provenance=ORIGIN)


def circuit_of_spans(seed: int = 0) -> Circuit:
    """Edges by the spans of a prompt, one of them of a name that is as bad as names can be."""
    wiring = WIRING.with_spans(("subject", "<b onload='&'>$x$", "last", "others"))
    generator = np.random.default_rng(seed)
    values = EdgeScores(wiring, generator.normal(size=wiring.n_edges).astype(np.float32))
    kept = generator.random(wiring.n_edges) < 0.4
    return Circuit(wiring, kept, values, provenance=ORIGIN)


def comparison() -> Comparison:
    return Comparison(circuit(0), circuit(1))


def evaluation() -> Evaluation:
    some = Interval(0.5, 0.4, 0.6)
    rest = some, some, some, some, UNDEFINED, {"model": some}, UNDEFINED, "pairs", 8
    return Evaluation(8, 20, 5, *rest)


def curve() -> FaithfulnessCurve:
    points = tuple(Interval(value, value, value) for value in (0.1, 0.6, 1.0))
    return FaithfulnessCurve((0.1, 0.5, 1.0), (10, 50, 100), points, points[1], points[0])


def trace() -> Trace:
    effects = {kind: np.random.default_rng(0).random((3, 4, 2)) for kind in TraceKind}
    tokens = ("The", f" {HOSTILE}", " is", " x")
    corrupted = np.array([0.1, 0.2])
    return Trace(HOSTILE, tokens, Span(1, 2), HOSTILE, 7, 0.9, corrupted, effects, ORIGIN)


def average_trace() -> AverageTrace:
    effects = {kind: np.random.default_rng(0).random((3, len(ROLES), 4)) for kind in TraceKind}
    return AverageTrace(effects, np.full(3, 0.9), np.full(3, 0.1), ORIGIN)


def lens() -> LensResult:
    rng = np.random.default_rng(0)
    return LensResult(
        prompt=Prompt(HOSTILE, (5, 6), ("a", "b"), False, ((0, 1), (1, 2))),
        positions={HOSTILE: 1},
        labels={HOSTILE: 3, "answer": 4},
        rank=rng.integers(0, 9, (3, 1, 2)),
        probability=rng.random((3, 1, 2)),
        best=np.full((3, 1, 5), 9),
        best_tokens={9: HOSTILE},
        provenance=ORIGIN,
    )


def average_lens() -> AverageLens:
    rng = np.random.default_rng(0)
    shape = (5, 4, len(Place), len(Followed))
    ranks = rng.integers(0, 900, shape)
    return AverageLens(tuple(Place), tuple(Followed), ranks, rng.random(shape), ORIGIN)


def roles() -> RoleReport:
    rng = np.random.default_rng(0)
    shape = (6, 2, 2, len(REGIONS))
    numbers = [rng.random(shape).astype(np.float32) for _ in range(4)]
    written = tuple(tuple((1, 2) for _ in range(2)) for _ in range(2))
    readings = HeadReadings(*numbers, written=written)
    criteria = RoleCriteria(attention=0.2)
    heads = label_heads(readings, criteria, token_string=lambda token: HOSTILE)
    first, *others = (head for layer in heads for head in layer)
    told = ByExample(2, 6, 4, 1, (Example(HOSTILE, HOSTILE, (HOSTILE, "b")),))
    found = (replace(first, by_example=told), *others)
    return RoleReport(found, criteria, readings, None, (), {})


def neurons() -> NeuronReport:
    rng = np.random.default_rng(0)
    shapes = {"nodes": (9, 2), "costs": (9, 2), "carried": (9, 2, 2), "random": (9, 2, 2)}
    shapes |= {"scores": (9, 2, 3), "changes": (9, 2, 3), "found": (2, 5), "found_costs": (2,)}
    numbers = {name: rng.random(shape) for name, shape in shapes.items()}
    reading = Reading(HOSTILE, 0.5, (HOSTILE, "b"), (HOSTILE,))
    return NeuronReport(
        mlps=("m0", "m1"),
        sizes=(1, 3),
        readings=((reading,) * 3,) * 2,
        kept=np.array([[4, 0, 2], [1, 2, 3]]),
        found_carried=rng.random((2, 2)),
        facts=np.arange(9),
        **numbers,
        provenance=ORIGIN,
    )


def prompt_heads() -> PromptHeads:
    shares = np.full((2, 3), 1 / 3, dtype=np.float32)
    words = ((HOSTILE, 2.0), (" b", 1.0))
    return PromptHeads(
        prompt=HOSTILE,
        tokens=(HOSTILE, " is", " x"),
        subject=Span(0, 1),
        answer=HOSTILE,
        answer_token=HOSTILE,
        heads=("a0.h0", "a1.h1"),
        attention=shares,
        weighted=shares,
        raised=(words, words),
        lowered=(((" c", -1.0),), ()),
        roles={"a1.h1": HOSTILE},
        provenance=ORIGIN,
    )


def carriers() -> Carriers:
    rng = np.random.default_rng(0)
    heads = np.zeros((2, 3, 2))
    heads[:, 1:] = rng.normal(size=(2, 2, 2))
    return Carriers(
        source=np.array([[0, 7, 0], [0, 8, 1]]),
        target=np.array([[2, 9, 1], [2, 9, 1]]),
        activation=np.array([1.5, 0.5]),
        direct=np.array([0.0, 0.4]),
        heads=heads,
        total=heads.sum((1, 2)) + np.array([0.01, 0.41]),
        weight=np.array([0.3, -0.2]),
        prompt=HOSTILE,
        tokens=(HOSTILE, " x"),
        provenance={**ORIGIN, "features": "neurons"},
    )


def rewiring() -> Rewiring:
    rng = np.random.default_rng(0)
    shape = (2, 1, 4, 2, 2)
    followed = FollowedObjects(
        (HOSTILE,), ("last", "subject last"), rng.integers(0, 90, shape), rng.random(shape)
    )
    written = rng.random((2, WIRING.n_src))
    return Rewiring(comparison(), followed, written, (3.0, -2.0), (), None, ORIGIN)


def delta() -> WeightDelta:
    import torch

    change = LowRank(torch.ones(3, 1), torch.ones(1, 4))
    return WeightDelta({"<i>.weight": change, "bias": torch.ones(4)}, ORIGIN)


def outcome() -> EditOutcome:
    request = EditRequest("{} is", HOSTILE, HOSTILE)
    details = {"probability_before": [0.1], "probability_after": [0.9]}
    return EditOutcome(
        delta(), EditStatus.DONE, HOSTILE, (1,), (request,), HOSTILE, details, ORIGIN
    )


STORED = {
    "circuit": circuit,
    "comparison": comparison,
    "trace": trace,
    "average_trace": average_trace,
    "lens": lens,
    "average_lens": average_lens,
    "roles": roles,
    "rewiring": rewiring,
    "delta": delta,
    "curves": lambda: FaithfulnessCurves({"eap-ig": curve()}, ORIGIN),
    "neurons": neurons,
    "heads": lambda: HeadsOnPrompts((prompt_heads(),)),
    "carriers": carriers,
}
"""One of every kind that is stored, by what makes it."""
