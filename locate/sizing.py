"""How many edges: the smallest circuit that keeps a stated part of what the model does.

1. Circuits of doubling size from `SMALLEST` of all edges on, until one is faithful on the pairs
   that gave the scores.
2. Bisection between that size and the one before, until two neighbours are within `PRECISION`.

Faithfulness need not grow with every edge, so a smaller faithful circuit that no size tried hits on
is not excluded. One base run serves all sizes and small circuits cost little
(`circuits.graph.measuring`). Whoever chose the size on these pairs has to state faithfulness on
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.base.sizes import shown
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import UNDEFINED_BELOW
from circuits.graph.measuring import BaseRuns, MeanMetric
from circuits.graph.running import CircuitRunner, head_projections
from circuits.graph.scores import EdgeScores
from circuits.model.footprint import Footprint
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from locate.edges.room import OWN_BYTES, SLACK, growth, lengths, short_batch
from locate.search import Search

SMALLEST, LARGEST = 0.001, 0.5
"""Shares of all edges between which sizes are tried; with more than half it is no circuit."""
PRECISION = 1.04


@alone
def smallest(
    model: Model,
    pairs: Sequence[TokenPair],
    scores: EdgeScores,
    search: Search,
    progress: Progress | None = None,
    base: BaseRuns | None = None,
) -> Circuit:
    """The smallest circuit found whose faithfulness on the pairs is `search.faithfulness` or more.

    The most faithful one where none reaches that, and the usual size where faithfulness is
    undefined. `provenance["selection"]` has the goal, what was `reached` (None: undefined) and how
    many sizes were tried; its `n` is the size before pruning, which repeats the selection.
    `base` are the pairs' `base_runs`, for whoever goes on with them.
    """
    goal, n_edges = search.faithfulness, scores.wiring.n_edges
    assert goal is not None
    runs = base_runs(model, pairs, scores.wiring, search) if base is None else base
    measure = MeanMetric(runs)
    whole, empty = measure.whole(), measure.of(Circuit.empty(scores.wiring).matrix())
    tried: dict[int, float] = {}

    def faithful(size: int) -> bool:
        kept = search.of_size(size).selected(scores).matrix()
        tried[size] = (measure.of(kept) - empty) / (whole - empty)
        if progress is not None:
            progress(len(tried), len(tried))
        return tried[size] >= goal

    if abs(whole - empty) > UNDEFINED_BELOW:
        below, size, most = 0, max(1, round(SMALLEST * n_edges)), max(1, int(LARGEST * n_edges))
        while not (found := faithful(size)) and size < most:
            below, size = size, min(2 * size, most)
        while found and size - below > max(1, (PRECISION - 1) * below):
            middle = max(below + 1, round((max(below, 1) * size) ** 0.5))
            below, size = (below, middle) if faithful(middle) else (middle, size)
    return _told(scores, search, goal, tried)


def base_runs(model: Model, pairs: Sequence[TokenPair], wiring: Wiring, search: Search) -> BaseRuns:
    """The pairs' base runs as the search measures circuits of a wiring; none is made yet.

    With `search.memory` they are lean ones, in batches that keep to it. The wiring is that of the
    circuits and not what these pairs would give: others may name spans in another order.
    """
    bound = model.memory if search.memory is None else int(search.memory)
    if bound is None:
        return BaseRuns(model, pairs, wiring, search.metric, search.ablation, search.batch_size)
    rows = _rows_within(bound, model, pairs, wiring, search.ablation, search.batch_size)
    return BaseRuns(model, pairs, wiring, search.metric, search.ablation, rows, lean=True)


def _rows_within(
    bound: int,
    model: Model,
    pairs: Sequence[TokenPair],
    wiring: Wiring,
    ablation: Ablation,
    most: int,
) -> int:
    """How many pairs, `most` at the most, circuits are run on at a time within a bound in bytes.

    Passes on short prompts tell it (`locate.edges.room`), with every edge kept, so that every head
    and MLP is run again. OptionError names the least that would do.
    """
    constants = source_constants(model, pairs, Ablation.ZERO) if ablation.is_constant else None
    wiring = wiring.with_spans()  # where a span is takes no room
    full = Circuit.full(wiring).matrix()

    def watch(rows: int, positions: int, prefix: int) -> Footprint:
        asked = short_batch(model, pairs[0], rows, positions, prefix)
        with Footprint() as seen:
            projections = head_projections(model, wiring, lean=True)
            run = CircuitRunner(model, asked, wiring, ablation, constants, projections)
            run.run(full)
        del run
        return seen

    def least(rows: int) -> float:
        held = 0.0
        for positions, prefix in lengths(pairs, sharing=constants is None).values():
            grown = growth(model, ("measuring", wiring.kv, ablation), watch, prefix > 0)
            held = max(held, float(grown.moments(rows, positions, prefix).max()))
        return SLACK * held + OWN_BYTES

    rows = next((each for each in range(most, 0, -1) if least(each) <= bound), None)
    if rows is None:
        raise OptionError(
            f"`memory` {shown(bound)} has no room to measure a circuit on one pair beside the "
            f"model; {shown(least(1), up=True)} would do"
        )
    return rows


def _told(scores: EdgeScores, search: Search, goal: float, tried: dict[int, float]) -> Circuit:
    """The circuit of the size that was found, saying how that came about."""
    n = replace(search, faithfulness=None).n_edges(scores.wiring)
    if tried:
        fitting = (size for size, value in tried.items() if value >= goal)
        n = min(fitting, default=max(tried, key=lambda size: tried[size]))
    chosen = search.of_size(n).selected(scores)
    about = {"faithfulness": goal, "reached": tried.get(n), "sizes_tried": len(tried)}
    selection = {**chosen.provenance["selection"], **about}
    return replace(chosen, provenance={**chosen.provenance, "selection": selection})


def size_line(circuit: Circuit) -> str | None:
    """How the number of edges was chosen, in a line; None where the user gave it."""
    about = circuit.provenance.get("selection", {})
    if "faithfulness" not in about:
        return None
    goal, reached, n = about["faithfulness"], about["reached"], about["sizes_tried"]
    if reached is None:
        return "faithfulness is undefined on the pairs that found it: the usual number of edges"
    if reached < goal:
        return (
            f"no size up to {100 * LARGEST:g} % of all edges reaches faithfulness {goal:g} on the "
            f"pairs that found it: kept the best of {n}, {reached:.3f}"
        )
    return (
        f"the smallest of {n} sizes that reaches faithfulness {goal:g} on the pairs that found it "
        f"({reached:.3f})"
    )
