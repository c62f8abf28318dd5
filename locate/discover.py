"""From prompt pairs to a circuit and a statement of how well it recalls the facts.

1. Score every edge (EAP, EAP-IG, exact patching), or search with ACDC.
2. Select edges and prune what is connected to nothing: the smallest circuit that is faithful on
   these pairs (`locate.sizing`), or as many edges as were asked for.
3. Repeat the selection on resampled facts: which edges does the circuit owe to the sample?
4. Run the circuit, its complement and random circuits of its size, on the pairs that found it and
   on pairs of other subjects.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.base.errors import NothingFoundError
from circuits.base.intervals import FEWEST, enough
from circuits.base.origin import code_commit, timestamp
from circuits.base.plain import plain
from circuits.base.progress import Progress, Stages, silent
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.curve import FRACTIONS, FaithfulnessCurve
from circuits.graph.curves import faithfulness_curve
from circuits.graph.evaluate import Evaluation, evaluate, run_circuits
from circuits.graph.measuring import BaseRuns
from circuits.graph.noise import Sample, sample_of
from circuits.graph.resample import Stability, bootstrap_scores, classify, inclusion_frequency
from circuits.graph.scores import EdgeScores
from circuits.graph.select import random_circuit
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.discovery import Discovery, sides_of
from locate.edges.score import score_edges
from locate.examples import Examples
from locate.search import Search
from locate.sizing import base_runs, smallest

if TYPE_CHECKING:
    from locate.heads.heads_on_prompts import PromptHeads

FAITHFUL = 0.8
"""A circuit below this faithfulness is called wanting."""
NO_SUBJECT = (
    "no roles: no pair says where a subject stands, and heads of a circuit are labelled by subject "
    "and relation; where the pairs name spans, `roles` by itself labels all heads by those"
)
NO_PATH = "no edge of the selection lies on a path from the input to the logits"


@alone
def discover(
    model: Model, examples: Examples, search: Search, stages: Stages = silent
) -> Discovery:
    """Find the circuit that the examples share, and evaluate it."""
    search = search.measured()
    wiring = search.wiring(model, examples.pairs)
    search.n_edges(wiring)
    clock = _Clock(stages)
    notes = list(examples.notes)
    pairs = examples.pairs
    base = base_runs(model, pairs, wiring, search)
    found = find(model, examples, search, clock.stage, base)
    stability = stability_of(found) if "inclusion" in found.columns else {}
    with clock.stage("evaluation") as progress:
        evaluation = _evaluated(model, pairs, found, search, progress, base)
    del base  # its memory is wanted
    held_out = None
    if examples.held_out:
        with clock.stage("held-out evaluation") as progress:
            others = base_runs(model, examples.held_out, found.wiring, search)
            held_out = _evaluated(model, examples.held_out, found, search, progress, others)
            del others
    curve = random_curve = None
    if search.curve and found.scores is not None:
        tested = examples.held_out or pairs
        with clock.stage("curve") as progress:
            curve, random_curve = _curves(model, tested, found.scores, search, progress)
    roles = None
    heads: tuple[PromptHeads, ...] = ()
    if search.roles and all(pair.subject is None for pair in pairs):
        notes.append(NO_SUBJECT)
    elif search.roles:
        from locate.heads.roles import roles_if_any

        with clock.stage("roles"):
            roles, reason = roles_if_any(
                model,
                pairs,
                check_on=examples.held_out or None,
                circuit=found,
                batch_size=search.batch_size,
                seed=search.seed,
            )
            if roles is None:
                notes.append(f"no roles: {reason}")
            else:
                found = replace(found, roles={**found.roles, **roles.roles})
            heads = _on_examples(model, pairs, found)
    notes += _cautions(examples, evaluation, held_out)
    headline = held_out or evaluation
    if np.isfinite(headline.faithfulness.value):
        side = list(sides_of(examples, evaluation, held_out))[-1]
        extra = {"faithfulness": headline.faithfulness.value, "faithfulness_on": side}
        found = replace(found, provenance={**found.provenance, **extra})
    found = replace(found, evidence=_evidence(examples, evaluation, held_out, stability, roles))
    return Discovery(
        model=model.name,
        search=search,
        examples=examples,
        circuit=found,
        evaluation=evaluation,
        held_out=held_out,
        stability=stability,
        curve=curve,
        random_curve=random_curve,
        roles=roles,
        heads=heads,
        seconds=clock.seconds,
        notes=tuple(notes),
    )


def _cautions(examples: Examples, evaluation: Evaluation, held_out: Evaluation | None) -> list[str]:
    """What to keep in mind about a circuit that does too little, or was found on too little."""
    side = list(sides_of(examples, evaluation, held_out))[-1]
    value, found = (held_out or evaluation).faithfulness.value, []
    if value < FAITHFUL:
        found.append(
            f"faithfulness {value:.3f} on {side} is below {FAITHFUL:g}: the circuit lacks much of "
            "what the model does there; a curve over sizes shows how many edges that takes"
        )
    sample = sample_of(examples.pairs)
    n, what = sample.observations, "partners" if sample.drawn == "partners" else "facts"
    if not enough(n):
        found.append(
            f"{n} different {what} found the circuit: below {FEWEST} there are no intervals and no "
            "inclusion, for resampling so few says nothing of others"
        )
    return found


def _evidence(
    examples: Examples,
    evaluation: Evaluation,
    held_out: Evaluation | None,
    stability: Mapping[str, int],
    roles: Any,
) -> dict[str, Any]:
    """What a stored circuit needs to be looked into later: its pairs, measures, and roles."""
    found: dict[str, Any] = {
        "pairs": texts(examples.pairs),
        "evaluation": plain(evaluation.as_dict()),
        "stability": dict(stability),
    }
    if held_out is not None:
        found["held_out_pairs"] = texts(examples.held_out)
        found["held_out"] = plain(held_out.as_dict())
    if roles is not None:
        found["roles"] = plain([head.as_dict() for head in roles.heads])
    return found


@alone
def find(
    model: Model,
    examples: Examples,
    search: Search,
    stages: Stages = silent,
    base: BaseRuns | None = None,
    *,
    empty: bool = False,
) -> Circuit:
    """The circuit that the examples' first side shares, and what resamples of it say; no test.

    It holds its scores, without those of single pairs, its pairs, and where it comes from.
    OptionError where nothing that was selected lies on a path from the input to the logits, unless
    a circuit that is `empty` is an answer too.
    """
    with stages("scores") as progress:
        circuit = _found(model, examples.pairs, search, progress)
    if search.faithfulness is not None:
        assert circuit.scores is not None, "a method that selects takes no faithfulness"
        with stages("size") as progress:
            circuit = smallest(model, examples.pairs, circuit.scores, search, progress, base)
        search = search.of_size(circuit.provenance["selection"]["n"])
    if not empty:
        check_not_empty(circuit)
    if circuit.scores is not None and circuit.scores.per_pair is not None:
        with stages("resamples"):
            circuit = with_uncertainty(circuit, search, sample_of(examples.pairs))
    return replace(
        circuit,
        scores=None if circuit.scores is None else replace(circuit.scores, per_pair=None),
        provenance={**circuit.provenance, **origin(model, examples, search)},
        evidence={"pairs": texts(examples.pairs)},
    )


def check_not_empty(circuit: Circuit) -> None:
    """NothingFoundError where a circuit that was found has no edge."""
    if circuit.n_edges == 0:
        raise NothingFoundError(f"{NO_PATH}; ask for more `edges` or a lower `threshold`")


def texts(pairs: Sequence[TokenPair]) -> list[dict[str, Any]]:
    """The pairs as a stored circuit holds them."""
    return [pair.text.as_dict() for pair in pairs]


def with_uncertainty(circuit: Circuit, search: Search, sample: Sample) -> Circuit:
    """The circuit with what resampled facts say of each edge, as columns.

    `low` and `high` bound its score with 95 %; `inclusion` is the share of resamples that keep it.
    """
    scores = circuit.scores
    assert scores is not None
    drawn, groups = (search.resamples, search.seed), sample.groups
    limits = bootstrap_scores(scores, *drawn, groups=groups)
    kept = inclusion_frequency(scores, search.selected, *drawn, groups=groups)
    found = {"low": limits.low, "high": limits.high, "inclusion": kept}
    single = {name: np.asarray(column, np.float32) for name, column in found.items()}
    return replace(circuit, columns={**circuit.columns, **single})


def origin(model: Model, examples: Examples, search: Search) -> dict[str, Any]:
    """Where a circuit comes from: all that is needed to find it again."""
    return {
        **model.provenance,
        "d_model": model.d_model,
        **search.record(),
        "relation": examples.name,
        "pairs": len(examples.pairs),
        "held_out_pairs": len(examples.held_out),
        "pairs_sha256": examples.fingerprint,
        "corrupted": examples.corrupt and str(examples.corrupt),
        "bos": examples.bos,
        "answer": f"{'all tokens' if search.metric.whole else 'first token'} of the continuation",
        "facts": examples.counts,
        "resamples": search.resamples,
        "seed": search.seed,
        "commit": code_commit(),
        "created": timestamp(),
    }


def random_circuits(circuit: Circuit, n: int, seed: int) -> list[Circuit]:
    """Random connected circuits of the same wiring and number of edges."""
    generator = np.random.default_rng(seed)
    return [random_circuit(circuit.wiring, circuit.n_edges, generator) for _ in range(n)]


def _found(model: Model, pairs: Sequence[TokenPair], search: Search, progress: Progress) -> Circuit:
    """The selected circuit; its scores hold a row a pair where resampling will want them."""
    n = sample_of(pairs).observations
    found = score_edges(
        model,
        pairs,
        search,
        batch_size=search.batch_size,
        keep_pairs=search.method.per_pair and search.resamples > 0 and enough(n),
        progress=progress,
    )
    if isinstance(found, Circuit):
        return found
    return Circuit.full(found.wiring, found) if search.faithfulness else search.selected(found)


def _evaluated(
    model: Model,
    pairs: Sequence[TokenPair],
    circuit: Circuit,
    search: Search,
    progress: Progress,
    base: BaseRuns,
) -> Evaluation:
    return evaluate(
        model,
        pairs,
        circuit,
        random_circuits=random_circuits(circuit, search.n_random, search.seed),
        metric=search.metric,
        ablation=search.ablation,
        batch_size=search.batch_size,
        seed=search.seed,
        progress=progress,
        base=base,
    )


def _curves(
    model: Model,
    pairs: Sequence[TokenPair],
    scores: EdgeScores,
    search: Search,
    progress: Progress,
) -> tuple[FaithfulnessCurve, FaithfulnessCurve]:
    """Faithfulness of the search's circuits of ten sizes, and of those that random scores give."""
    total = scores.wiring.n_edges
    sizes = sorted({max(1, round(share * total)) for share in FRACTIONS})
    generator = np.random.default_rng(search.seed)
    shuffled = replace(scores, values=generator.permutation(total) + 1.0, per_pair=None)
    searches = [search.of_size(size) for size in sizes]
    families = [[each.selected(ranked) for each in searches] for ranked in (scores, shuffled)]
    curves = []
    for family in families:
        runs = run_circuits(
            model,
            pairs,
            family,
            metric=search.metric,
            ablation=search.ablation,
            batch_size=search.batch_size,
            progress=progress,
            base=base_runs(model, pairs, scores.wiring, search),
        )
        by, seed = search.ranking, search.seed
        curves.append(faithfulness_curve(runs, family, sizes=sizes, ranking=by, seed=seed))
    return curves[0], curves[1]


def _on_examples(
    model: Model, pairs: Sequence[TokenPair], circuit: Circuit
) -> tuple[PromptHeads, ...]:
    """The circuit's heads on the first few prompts."""
    from locate.heads.prompt_heads import heads_of, read_prompts

    return tuple(read_prompts(model, pairs, heads_of(circuit), circuit.roles))


def stability_of(circuit: Circuit) -> dict[str, int]:
    """How many kept edges are core, contingent and noise."""
    kept = circuit.columns["inclusion"][circuit.kept]
    labels = Counter(classify(float(share)) for share in kept)
    return {str(label): labels[label] for label in Stability}


class _Clock:
    """Opens stages and keeps how long each took."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        start = time.perf_counter()
        with self.stages(title) as progress:
            yield progress
        self.seconds[title] = round(time.perf_counter() - start, 3)
