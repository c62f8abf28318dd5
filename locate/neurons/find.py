"""Which neurons of an MLP do what it does: found on some pairs, tested on others.

1. Score all neurons of the MLPs on the pairs that choose (`locate.neurons.scoring`). Unless MLPs
   are named take the 8 whose neurons' scores sum to most; keep the best neurons of each.
2. Score these on the pairs that test, which ask about other subjects where there are any: a
   neuron's number there had no part in its being chosen.
3. On these pairs, patch the best 1, 4, 16 and 64 neurons of each MLP exactly, beside as many
   random neurons of the same MLP and the whole of it (`locate.neurons.patching`):

       share carried = (m(clean) - m(neurons patched)) / (m(clean) - m(MLP patched)),

   of the means over pairs. It may be above 1: neurons outside may work against the answer. Which
   MLP is named first, and how many neurons, is decided by the same runs on the pairs that choose.
4. Say of each kept neuron where in the prompt it does most, and which tokens it raises there: those
   of its output direction, by the sign of its clean less its corrupted activation, through the
   final norm's gain and the output matrix. That is its direct path alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from circuits.base.choices import Ranking
from circuits.base.errors import NothingFoundError, OptionError
from circuits.base.progress import Stages, silent
from circuits.facts.pairs import TokenPair
from circuits.facts.spans import AUTO, named_spans, span_places
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import check_geometry
from circuits.graph.noise import sample_of
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tensors import at_least_fp32
from circuits.model.wiring import LAST, OTHERS, node_kind
from locate.examples import Examples
from locate.heads.best_tokens import best_tokens
from locate.neurons.options import USUAL_MLPS, NeuronSearch
from locate.neurons.patching import Sets, patch_neurons
from locate.neurons.report import NeuronReport, Reading
from locate.neurons.scoring import Chosen, NeuronScores, directions, score_neurons
from locate.seen import FOUND_IT, side_beside
from locate.states.frozen_norm import FrozenNorm

WRITTEN = 5
"""Tokens that are named of what a neuron writes ..."""
READ = 3
"""... and of where it does most."""


@alone
def find_neurons(
    model: Model,
    examples: Examples,
    mlps: Circuit | Sequence[str] = (),
    search: NeuronSearch | None = None,
    stages: Stages = silent,
) -> NeuronReport:
    """The neurons of the MLPs named, or of those of a circuit, or of the model, that score most.

    Neurons are chosen on the examples' first side and tested on the other, or on the same pairs
    where nothing is held out; `provenance["measured_on"]` says which. Errors are those of
    `locate.neurons.scoring.score_neurons`, and OptionError for names that are no MLPs.
    """
    search = search or NeuronSearch()
    layers = mlp_layers(model, mlps)
    n_mlps = search.n_mlps or (len(layers) if _are_named(mlps) else USUAL_MLPS)
    pairs, scoring = examples.held_out or examples.pairs, search.scoring
    with stages("scores") as progress:
        every = score_neurons(
            model,
            examples.pairs,
            layers,
            scoring,
            batch_size=search.batch_size,
            progress=progress,
        ).mean
    most = np.sort(np.argsort(-np.abs(every.sum(-1)), kind="stable")[:n_mlps])
    layers, found = [layers[at] for at in most], every[most]
    d_mlp = found.shape[1]
    sizes = search.sizes_of(d_mlp)
    ranked = -(np.abs(found) if search.ranking == Ranking.ABSOLUTE else found)
    kept = np.argsort(ranked, -1, kind="stable")[:, : sizes[-1]]
    chosen: Chosen = {layer: kept[at].tolist() for at, layer in enumerate(layers)}
    with stages("scores of the kept") as progress:
        tested = score_neurons(
            model, pairs, layers, scoring, chosen, batch_size=search.batch_size, progress=progress
        )
    best = {layer: [None, *(some[:size] for size in sizes)] for layer, some in chosen.items()}
    sets = {layer: [*best[layer], *_random(d_mlp, sizes, search, layer)] for layer in layers}
    runs: dict[str, Any] = {"metric": search.metric, "batch_size": search.batch_size}
    with stages("patching") as progress:
        lost = _lost(model, pairs, sets, progress=progress, **runs)
    first = lost.mean(0)
    if examples.held_out:
        with stages("patching where they were chosen") as progress:
            first = _lost(model, examples.pairs, best, progress=progress, **runs).mean(0)
    n, sample = 1 + len(sizes), sample_of(pairs)
    return NeuronReport(
        mlps=tuple(f"m{layer}" for layer in layers),
        sizes=sizes,
        readings=tuple(_readings(model, pairs, tested, chosen)),
        found=found,
        found_costs=first[:, 0],
        found_carried=first[:, 1:n],
        kept=kept,
        scores=tested.per_pair,
        nodes=tested.nodes,
        changes=tested.changes,
        costs=lost[..., 0],
        carried=lost[..., 1:n],
        facts=sample.groups,
        random=lost[..., n:].reshape(*lost.shape[:2], search.n_random, len(sizes)).mean(2),
        provenance={
            **_origin(model, examples, search),
            "scored_mlps": len(every),
            "intervals": f"over {sample.over}",
        },
    )


def _are_named(mlps: Circuit | Sequence[str]) -> bool:
    """Whether these are MLPs by their names."""
    return not isinstance(mlps, Circuit) and len(mlps) > 0


def mlp_layers(model: Model, mlps: Circuit | Sequence[str]) -> list[int]:
    """The layers of a circuit's MLPs, or of those named; all where none is named."""
    if isinstance(mlps, Circuit):
        check_geometry(model, mlps.wiring)
        names = [node for node in mlps.nodes() if node_kind(node) == "mlp"]
        if not names:
            raise NothingFoundError(
                "the circuit holds no MLP, so that there is no neuron to look at"
            )
    else:
        names = list(mlps) or [f"m{layer}" for layer in range(model.n_layers)]
    known = {f"m{layer}": layer for layer in range(model.n_layers)}
    for name in names:
        if name not in known:
            raise OptionError(
                f"{name!r:.40} is no MLP of {model.name!r}, which has m0 to m{model.n_layers - 1}"
            )
    return sorted({known[name] for name in names})


def _lost(
    model: Model, pairs: Sequence[TokenPair], sets: Sets, **options: Any
) -> Float[np.ndarray, "pair mlp set"]:
    """What each pair's metric loses by patching each set."""
    clean, patched = patch_neurons(model, pairs, sets, **options)
    return np.stack([clean[:, None] - patched[layer] for layer in sorted(sets)], 1)


def _random(
    d_mlp: int, sizes: Sequence[int], search: NeuronSearch, layer: int
) -> Iterator[list[int]]:
    """Random neurons, draw after draw, in each as many as each size says."""
    generator = np.random.default_rng((search.seed, layer))
    for _ in range(search.n_random):
        order = generator.permutation(d_mlp).tolist()
        yield from (order[:size] for size in sizes)


@torch.no_grad()
def _readings(
    model: Model, pairs: Sequence[TokenPair], tested: NeuronScores, chosen: Chosen
) -> Iterator[tuple[Reading, ...]]:
    """For each MLP where its kept neurons do most, and what they write there."""
    spans = _spans(pairs)
    in_span = [span_places(pair, spans) for pair in pairs]
    token_string = model.tokenizer.token_string
    for at, layer in enumerate(tested.layers):
        written = _written(model, layer, chosen[layer], tested.changes[:, at].mean(0))
        found = []
        for place, words in enumerate(written):
            peaks = tested.places[:, at, place].tolist()
            named = [spans[in_span[row][peak]] for row, peak in enumerate(peaks)]
            read = [pairs[row].clean.ids[peak] for row, peak in enumerate(peaks)]
            [(commonest, count)] = Counter(named).most_common(1)
            share = count / len(named)
            tokens = tuple(token_string(each) for each, _ in Counter(read).most_common(READ))
            found.append(Reading(commonest, share, tokens, tuple(map(token_string, words))))
        yield tuple(found)


def _spans(pairs: Sequence[TokenPair]) -> tuple[str, ...]:
    """Subject, relation and what else the pairs tell apart; the last token and others at least."""
    try:
        return named_spans(pairs, AUTO)
    except OptionError:
        return (LAST, OTHERS)


def _written(
    model: Model, layer: int, neurons: Sequence[int], changes: Float[np.ndarray, " neuron"]
) -> list[list[int]]:
    """The tokens that each neuron raises most where its activation has changed so."""
    vectors = at_least_fp32(directions(model, layer)[:, list(neurons)].T)
    signs = torch.as_tensor(np.where(changes < 0, -1.0, 1.0)).to(vectors)
    gain = model.final_norm()[0].to(vectors.dtype)
    norm = FrozenNorm(vectors.new_ones(len(vectors)), gain, not model.uses_rms_norm)
    found: list[list[int]] = best_tokens(
        model, norm.apply(vectors * signs[:, None]), WRITTEN
    ).tolist()
    return found


def _origin(model: Model, examples: Examples, search: NeuronSearch) -> dict[str, Any]:
    """All that is needed to find the neurons again."""
    held_out = examples.held_out
    return {
        **model.provenance,
        **search.scoring.record(),
        "ranking": str(search.ranking),
        "pairs": len(examples.held_out or examples.pairs),
        "found_on": len(examples.pairs),
        "measured_on": side_beside(examples.pairs, held_out) if held_out else FOUND_IT,
        "pairs_sha256": examples.fingerprint,
        "bos": examples.bos,
        "n_random": search.n_random,
        "seed": search.seed,
    }
