"""Edge attribution patching: EAP (Syed et al. 2023) and EAP-IG (Hanna et al. 2024).

1. Run the corrupted and the clean prompt; keep what every source writes (`SourceDifferences`).
2. Run the clean prompt (EAP), or points between the corrupted and the clean token embedding
   (EAP-IG), with gradients; keep the gradient at every destination's input (`InputGradients`).
3. Contract: score(u -> v) = sum over positions of (clean - corrupted output of u) . dm/d(input of
   v), one matrix product a layer and example.
4. Average over examples.

A score estimates m(clean) - m(edge corrupted): positive supports the answer. Before the first
token in which the prompts differ both runs are the same, so those positions are computed once and
scored nowhere. Examples never share a matrix row: batch size, order and batch mates do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import PairBatch, TokenPair, batches
from circuits.graph.ablation import SourceConstants, source_constants
from circuits.graph.circuit import EdgeScores, Wiring
from circuits.model.footprint import PLAIN, Footprint
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Model, Prefix
from locate.edges.locators import Locator
from locate.edges.passes import InputGradients, SourceDifferences
from locate.edges.room import Contraction, Room, Share
from locate.search import Scoring


@alone
def attribute(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring | None = None,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> EdgeScores:
    """Scores of all edges, averaged over the pairs, by EAP or EAP-IG.

    Single fields of the scoring may be given by name: `attribute(model, pairs, metric="log-prob")`.
    `keep_pairs` also keeps each pair's scores (`EdgeScores.per_pair`, 4 bytes an edge and pair).
    With `scoring.memory` batches are as small as that bound wants them, and scores the same.
    `progress` is called with (pairs done, pairs in all). Raises NumericalError naming the pair
    whose scores are not finite.
    """
    scoring = Scoring.of(scoring, options)
    if scoring.method not in _GRADIENTS:
        raise OptionError(f"the method {scoring.method} is none of {', '.join(_GRADIENTS)}")
    wiring = model.wiring(scoring.kv)
    if not pairs:
        raise OptionError("there are no prompt pairs to score")
    shares = _shares(model, wiring, pairs, scoring, batch_size, keep_pairs)
    constants = None
    if scoring.ablation.is_constant:
        fewest = min(share.rows for share in shares.values())
        constants = source_constants(model, pairs, scoring.ablation, fewest)
    total = np.zeros(wiring.n_edges)
    per_pair = np.empty((len(pairs), wiring.n_edges), dtype=np.float32) if keep_pairs else None
    done = 0
    for batch in batches(pairs, {length: each.rows for length, each in shares.items()}, model):
        share = shares[batch.clean.shape[1]]
        scores = _attribute_batch(model, wiring, batch, scoring, constants, share)
        _check_finite(model, scores, batch, pairs, wiring)
        total += scores.sum(0, dtype=np.float64)
        if per_pair is not None:
            per_pair[list(batch.index)] = scores
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))
    provenance = {**model.provenance, **scoring.record(), "pairs": len(pairs)}
    return EdgeScores(wiring, (total / len(pairs)).astype(np.float32), per_pair, provenance)


def _attribute_batch(
    model: Model,
    wiring: Wiring,
    batch: PairBatch,
    scoring: Scoring,
    constants: SourceConstants | None,
    share: Share,
) -> Float[np.ndarray, "pair edge"]:
    differences, gradients = _passes(model, wiring, batch, scoring, constants, share.recompute)
    matrix = _contract(wiring, differences, gradients, len(batch), share)
    return wiring.from_matrix(matrix.cpu().numpy()) / gradients.n_runs


def _passes(
    model: Model,
    wiring: Wiring,
    batch: PairBatch,
    scoring: Scoring,
    constants: SourceConstants | None,
    recompute: bool,
) -> tuple[SourceDifferences, InputGradients]:
    """All runs of a batch; their prefix is let go of."""
    differences, gradients = SourceDifferences(model), InputGradients(model, wiring, recompute)
    shared = 0 if constants is not None else batch.first_difference
    prefix = model.share_prefix(batch.clean[:, :shared])
    runs = _Runs(model, scoring, batch, shared, prefix, differences, gradients, constants)
    _GRADIENTS[scoring.method](runs)
    if constants is not None:
        differences.subtract(constants)
    return differences, gradients


@dataclass(frozen=True, eq=False)
class _Runs:
    """A batch's runs from position `shared` on, and what is to be kept of them."""

    model: Model
    scoring: Scoring
    batch: PairBatch
    shared: int
    prefix: Prefix | None
    differences: SourceDifferences
    gradients: InputGradients
    constants: SourceConstants | None

    @property
    def clean(self) -> Tensor:
        """Tokens of the clean prompts."""
        return self.batch.clean[:, self.shared :]

    @property
    def corrupted(self) -> Tensor:
        """Tokens of the corrupted prompts."""
        return self.batch.corrupted[:, self.shared :]

    def metric(self, clean_logits: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The metric of a run's logits."""
        name, batch = self.scoring.metric, self.batch
        sides = batch.wanted, batch.unwanted
        return lambda logits: evaluate_metric(name, logits, *sides, clean_logits)


def _at_clean(runs: _Runs) -> None:
    """EAP: the gradient at the clean run."""
    if runs.constants is None:
        with torch.no_grad():
            runs.model.last_logits(runs.corrupted, runs.differences.hooks(-1), runs.prefix)
    hooks = runs.differences.hooks(1)
    runs.gradients.run(runs.clean, runs.metric(None), prefix=runs.prefix, extra_hooks=hooks)


def _along_the_path(runs: _Runs) -> None:
    """EAP-IG: the gradient at points between the corrupted and the clean embedding."""
    model, scoring, constants = runs.model, runs.scoring, runs.constants
    differences = runs.differences
    with torch.no_grad():
        clean_logits = model.last_logits(runs.clean, differences.hooks(1), runs.prefix)
        end = model.embed(runs.clean)
        start = model.embed(runs.corrupted) if constants is None else constants.embedding
    pending = differences.hooks(-1) if constants is None else []
    for point in scoring.rule.points(scoring.steps):
        embedding = torch.lerp(start.expand_as(end), end, point)
        hooks, pending = (pending, []) if point == 0.0 else ([], pending)
        metric = runs.metric(clean_logits)
        runs.gradients.run(runs.clean, metric, embedding, runs.prefix, extra_hooks=hooks)
    if pending:  # no integration point was the corrupted run itself
        with torch.no_grad():
            model.last_logits(runs.corrupted, pending, runs.prefix)


_GRADIENTS = {Locator.EAP: _at_clean, Locator.EAP_IG: _along_the_path}


@torch.no_grad()
def _contract(
    wiring: Wiring,
    differences: SourceDifferences,
    gradients: InputGradients,
    n_examples: int,
    share: Share,
) -> Float[Tensor, "pair src dst"]:
    """Inner products of source differences and input gradients, example by example."""
    model = gradients.model
    n_positions = gradients.final(slice(None)).shape[0] // n_examples
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    scores = torch.zeros(
        n_examples, wiring.n_src, wiring.n_dst, dtype=torch.float32, device=model.device
    )
    row_bytes = Contraction.of(model, wiring).position
    for examples, rows in _pieces(n_examples, n_positions, row_bytes, share):
        size = (rows.stop - rows.start, model.d_model)
        sources = torch.empty(wiring.n_src, *size, dtype=dtype, device=model.device)
        inputs = torch.empty(wiring.n_attn + 1, *size, dtype=dtype, device=model.device)
        sources[0] = differences.values["embedding"].reshape(-1, model.d_model)[rows]
        # A layer's MLP reads the same sources as the next layer's heads, less one, and stands
        # right before them in the wiring: both share one product.
        for layer in range(wiring.n_layers + 1):
            is_end, has_mlp = layer == wiring.n_layers, layer > 0
            if has_mlp:
                inputs[0] = gradients.mlp(layer - 1, rows)
            if is_end:
                inputs[1] = gradients.final(rows)
            else:
                gradients.attention(layer, rows, inputs[1:])
            read = inputs[: 2 if is_end else None][0 if has_mlp else 1 :]
            stop = wiring.attn_dst(layer) + (1 if is_end else wiring.n_attn)
            n_src = wiring.head_src(layer)
            _inner_products(
                sources[:n_src], read, scores[examples, :n_src, stop - len(read) : stop]
            )
            if not is_end:
                differences.write_layer(layer, rows, sources, n_src)
        del sources, inputs, read  # before the next piece makes its own
    return scores


def _pieces(
    n_examples: int, n_positions: int, row_bytes: int, share: Share
) -> Iterator[tuple[slice, slice]]:
    """Examples and their rows whose buffers fit; a part of one example's rows where it is split."""
    at_once = share.buffer // row_bytes
    if share.split and at_once < n_positions:
        for example in range(n_examples):
            first, stop = example * n_positions, (example + 1) * n_positions
            for start in range(first, stop, max(1, at_once)):
                rows = slice(start, min(start + max(1, at_once), stop))
                yield slice(example, example + 1), rows
        return
    example_bytes = row_bytes * n_positions
    n_chunks = min(n_examples, -(-n_examples * example_bytes // share.buffer))
    chunk = -(-n_examples // n_chunks)
    for first in range(0, n_examples, chunk):
        examples = slice(first, min(first + chunk, n_examples))
        yield examples, slice(examples.start * n_positions, examples.stop * n_positions)


def _inner_products(
    sources: Float[Tensor, "src row d_model"],
    inputs: Float[Tensor, "dst row d_model"],
    out: Float[Tensor, "pair src dst"],
) -> None:
    """Add each example's products; rows of one example stand together."""
    width = sources.shape[1] // len(out) * sources.shape[2]
    left, right = sources.flatten(1), inputs.flatten(1)
    for place, product in enumerate(out):
        part = slice(place * width, (place + 1) * width)
        product.add_(left[:, part] @ right[:, part].T)


def _shares(
    model: Model,
    wiring: Wiring,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    batch_size: int,
    keep_pairs: bool,
) -> dict[int, Share]:
    """How the pairs of each length are taken; without a bound in batches of the size asked for."""
    if scoring.memory is None:
        return {len(pair.clean): Share(batch_size) for pair in pairs}
    constant, one = scoring.ablation.is_constant, replace(scoring, steps=1)
    constants = source_constants(model, pairs, Ablation.ZERO) if constant else None

    def batch(rows: int, positions: int, prefix: int) -> PairBatch:
        (found,) = batches(pairs[:1], 1, model)
        wide = -(-(prefix + positions) // found.clean.shape[1])

        def tokens(given: Tensor) -> Tensor:
            return given.repeat(rows, wide)[:, : prefix + positions]

        return replace(
            found,
            index=(0,) * rows,
            clean=tokens(found.clean),
            corrupted=tokens(found.corrupted),
            first_difference=prefix,
            **{name: _rows(getattr(found, name), rows) for name in _ANSWERS},
        )

    def watch(rows: int, positions: int, prefix: int, recompute: bool) -> Footprint:
        asked = batch(rows, positions, prefix)
        with Footprint() as seen:
            held = _passes(model, wiring, asked, one, constants, recompute)
        del held
        return seen

    n_positions = PLAIN[0][0]
    asked = batch(1, n_positions, 0)
    kept = _passes(model, wiring, asked, one, constants, recompute=False)
    with Footprint() as seen:
        _contract(wiring, *kept, 1, Share(1))
    contraction = Contraction.of(model, wiring, seen.peak, n_positions)
    results = wiring.n_edges * (3 * 8 + 4 * len(pairs) * keep_pairs)
    kind = one.method, one.rule, one.metric, one.kv, constant, asked.wanted.shape
    further = scoring.steps - 1 if scoring.method == Locator.EAP_IG else 0
    added = kept[1].later_bytes(further)
    room = Room(model, kind, int(scoring.memory), results, watch, contraction, added)
    return room.shares(pairs, min(batch_size, len(pairs)), sharing=not constant)


def _rows(value: Tensor, rows: int) -> Tensor:
    return value.repeat(rows, *[1] * (value.ndim - 1))


_ANSWERS = "answer", "foil", "wanted", "unwanted"


def _check_finite(
    model: Model,
    scores: Float[np.ndarray, "pair edge"],
    batch: PairBatch,
    pairs: Sequence[TokenPair],
    wiring: Wiring,
) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        row, edge = bad[0]
        prompt = pairs[batch.index[row]].text.clean
        raise NumericalError(
            f"the score of {wiring.edge_name(int(edge))} is not a finite number for the prompt "
            f"{prompt!r}; {model.why_not_finite()}"
        )
