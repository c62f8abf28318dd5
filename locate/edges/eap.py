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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import PairBatch, TokenPair, batches
from circuits.graph.ablation import SourceConstants, source_constants
from circuits.graph.circuit import EdgeScores, Wiring
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Hook, Model, Prefix
from locate.edges.locators import Locator
from locate.edges.passes import InputGradients, SourceDifferences
from locate.edges.rules import PLAIN, BackwardRules
from locate.search import Scoring

CONTRACTION_BYTES = 48 * 2**20
"""Upper bound of the buffers that hold sources and gradients in d_model space."""


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
    `progress` is called with (pairs done, pairs in all). Raises NumericalError naming the pair
    whose scores are not finite.
    """
    scoring = Scoring.of(scoring, options)
    if scoring.method not in _GRADIENTS:
        raise OptionError(f"the method {scoring.method} is none of {', '.join(_GRADIENTS)}")
    return contract_runs(
        model,
        pairs,
        scoring,
        _GRADIENTS[scoring.method],
        batch_size=batch_size,
        keep_pairs=keep_pairs,
        progress=progress,
    )


def contract_runs(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    score: Callable[[Runs], Float[np.ndarray, "pair edge"]],
    *,
    rules: BackwardRules = PLAIN,
    also: Sequence[str] = (),
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores of all edges, averaged over the pairs, from what `score` makes of each batch's runs.

    Gradients are by `rules`, and kept at the points `also` too; for the rest see `attribute`.
    """
    wiring = model.wiring(scoring.kv)
    if not pairs:
        raise OptionError("there are no prompt pairs to score")
    constants = None
    if scoring.ablation.is_constant:
        constants = source_constants(model, pairs, scoring.ablation, batch_size)
    total = np.zeros(wiring.n_edges)
    per_pair = np.empty((len(pairs), wiring.n_edges), dtype=np.float32) if keep_pairs else None
    done = 0
    for batch in batches(pairs, batch_size, model):
        runs = Runs.of(model, wiring, batch, scoring, constants, rules, also)
        scores = score(runs)
        _check_finite(model, scores, batch, pairs, wiring)
        total += scores.sum(0, dtype=np.float64)
        if per_pair is not None:
            per_pair[list(batch.index)] = scores
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))
    provenance = {**model.provenance, **scoring.record(), "pairs": len(pairs)}
    return EdgeScores(wiring, (total / len(pairs)).astype(np.float32), per_pair, provenance)


@dataclass(frozen=True, eq=False)
class Runs:
    """A batch's runs from position `shared` on, and what is to be kept of them."""

    model: Model
    wiring: Wiring
    scoring: Scoring
    batch: PairBatch
    shared: int
    prefix: Prefix | None
    differences: SourceDifferences
    gradients: InputGradients
    constants: SourceConstants | None

    @classmethod
    def of(
        cls,
        model: Model,
        wiring: Wiring,
        batch: PairBatch,
        scoring: Scoring,
        constants: SourceConstants | None,
        rules: BackwardRules = PLAIN,
        also: Sequence[str] = (),
    ) -> Runs:
        """No run made yet; positions before the first difference are computed here, once."""
        differences, gradients = (
            SourceDifferences(model),
            InputGradients(model, wiring, rules, also),
        )
        shared = 0 if constants is not None else batch.first_difference
        prefix = model.share_prefix(batch.clean[:, :shared])
        return cls(model, wiring, scoring, batch, shared, prefix, differences, gradients, constants)

    def scores(self, gradients: InputGradients | None = None) -> Float[np.ndarray, "pair edge"]:
        """Each pair's scores, from the mean of these gradients or of those of the runs."""
        gradients = gradients or self.gradients
        matrix = _contract(self.wiring, self.differences, gradients, len(self.batch))
        return self.wiring.from_matrix(matrix.cpu().numpy()) / gradients.n_runs

    def see_corrupted(self) -> None:
        """Complete the differences with what replaces the clean outputs."""
        if self.constants is not None:
            self.differences.subtract(self.constants)
            return
        with torch.no_grad():
            self.model.last_logits(self.corrupted, self.differences.hooks(-1), self.prefix)

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


def at_clean(runs: Runs) -> Float[np.ndarray, "pair edge"]:
    """EAP: the gradient at the clean run."""
    hooks = runs.differences.hooks(1)
    runs.gradients.run(runs.clean, runs.metric(None), prefix=runs.prefix, extra_hooks=hooks)
    runs.see_corrupted()
    return runs.scores()


def along_the_path(runs: Runs, look: Sequence[Hook] = ()) -> Float[np.ndarray, "pair edge"]:
    """EAP-IG: the gradient at points between the corrupted and the clean embedding.

    `look` are hooks of the clean run.
    """
    model, scoring, constants = runs.model, runs.scoring, runs.constants
    differences = runs.differences
    with torch.no_grad():
        hooks = [*differences.hooks(1), *look]
        clean_logits = model.last_logits(runs.clean, hooks, runs.prefix)
        end = model.embed(runs.clean)
        start = model.embed(runs.corrupted) if constants is None else constants.embedding
    pending = differences.hooks(-1) if constants is None else []
    for point in scoring.rule.points(scoring.steps):
        embedding = torch.lerp(start.expand_as(end), end, point)
        hooks, pending = (pending, []) if point == 0.0 else ([], pending)
        metric = runs.metric(clean_logits)
        runs.gradients.run(runs.clean, metric, embedding, runs.prefix, extra_hooks=hooks)
    if pending or constants is not None:  # no integration point was the corrupted run itself
        runs.see_corrupted()
    return runs.scores()


_GRADIENTS = {Locator.EAP: at_clean, Locator.EAP_IG: along_the_path}


@torch.no_grad()
def _contract(
    wiring: Wiring, differences: SourceDifferences, gradients: InputGradients, n_examples: int
) -> Float[Tensor, "pair src dst"]:
    """Inner products of source differences and input gradients, example by example."""
    model = gradients.model
    n_positions = gradients.final(slice(None)).shape[0] // n_examples
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    scores = torch.zeros(
        n_examples, wiring.n_src, wiring.n_dst, dtype=torch.float32, device=model.device
    )
    example_bytes = (wiring.n_src + wiring.n_attn + 1) * n_positions * model.d_model * 4
    n_chunks = min(n_examples, -(-n_examples * example_bytes // CONTRACTION_BYTES))
    chunk = -(-n_examples // n_chunks)
    for first in range(0, n_examples, chunk):
        examples = slice(first, min(first + chunk, n_examples))
        rows = slice(examples.start * n_positions, examples.stop * n_positions)
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
    return scores


def _inner_products(
    sources: Float[Tensor, "src row d_model"],
    inputs: Float[Tensor, "dst row d_model"],
    out: Float[Tensor, "pair src dst"],
) -> None:
    """Write each example's products; rows of one example stand together."""
    width = sources.shape[1] // len(out) * sources.shape[2]
    left, right = sources.flatten(1), inputs.flatten(1)
    for place, product in enumerate(out):
        part = slice(place * width, (place + 1) * width)
        product.copy_(left[:, part] @ right[:, part].T)


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
