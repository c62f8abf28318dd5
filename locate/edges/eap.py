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
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Method, Rule
from circuits.base.errors import NumericalError, OptionError
from circuits.facts.pairs import PairBatch, TokenPair, batches
from circuits.graph.ablation import Ablation, SourceConstants, source_constants
from circuits.graph.circuit import EdgeScores, KeyValue, Wiring
from circuits.model.metrics import Metric, evaluate_metric
from circuits.model.model import Model
from locate.edges.passes import InputGradients, SourceDifferences

CONTRACTION_BYTES = 48 * 2**20
"""Upper bound of the buffers that hold sources and gradients in d_model space."""


@dataclass(frozen=True)
class Attribution:
    """Everything that decides the scores, apart from model and data."""

    method: Method = Method.EAP_IG
    steps: int = 5
    rule: Rule = Rule.MIDPOINT
    metric: Metric = Metric.LOGIT_DIFFERENCE
    ablation: Ablation = Ablation.PATCH
    kv: KeyValue = KeyValue.GROUPED

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"integration needs at least 1 step, not {self.steps}")
        if self.method is Method.EAP and self.metric is Metric.KL:
            raise OptionError(
                "EAP takes the gradient at the clean run, where the KL divergence from the clean "
                "run has none: every score would be 0; use --method eap-ig or another metric"
            )

    def as_dict(self) -> dict[str, Any]:
        """For provenance; the integration fields only where they were used."""
        fields = {name: str(value) for name, value in asdict(self).items() if name != "steps"}
        if self.method is Method.EAP_IG:
            return {**fields, "steps": self.steps}
        del fields["rule"]
        return fields


def attribute(
    model: Model,
    pairs: Sequence[TokenPair],
    options: Attribution | None = None,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EdgeScores:
    """Scores of all edges, averaged over the pairs.

    `keep_pairs` also keeps each pair's scores (`EdgeScores.per_pair`, 4 bytes an edge and pair).
    `progress` is called with (pairs done, pairs in all). Raises NumericalError naming the pair
    whose scores are not finite.
    """
    options = options or Attribution()
    wiring = model.wiring(options.kv)
    if not pairs:
        raise OptionError("there are no prompt pairs to score")
    constants = None
    if options.ablation is not Ablation.PATCH:
        constants = source_constants(model, pairs, options.ablation, batch_size)
    total = np.zeros(wiring.n_edges)
    per_pair = np.empty((len(pairs), wiring.n_edges), dtype=np.float32) if keep_pairs else None
    done = 0
    for batch in batches(pairs, batch_size, model):
        scores = _attribute_batch(model, wiring, batch, options, constants)
        _check_finite(model, scores, batch, pairs, wiring)
        total += scores.sum(0, dtype=np.float64)
        if per_pair is not None:
            per_pair[list(batch.index)] = scores
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))
    provenance = {**model.provenance, **options.as_dict(), "pairs": len(pairs)}
    return EdgeScores(wiring, (total / len(pairs)).astype(np.float32), per_pair, provenance)


def _attribute_batch(
    model: Model,
    wiring: Wiring,
    batch: PairBatch,
    options: Attribution,
    constants: SourceConstants | None,
) -> Float[np.ndarray, "pair edge"]:
    differences, gradients = SourceDifferences(model), InputGradients(model, wiring)
    shared = 0 if constants is not None else batch.first_difference
    prefix = model.share_prefix(batch.clean[:, :shared])
    clean, corrupted = batch.clean[:, shared:], batch.corrupted[:, shared:]
    clean_logits: Tensor | None = None

    def metric(logits: Tensor) -> Tensor:
        return evaluate_metric(options.metric, logits, batch.answer, batch.foil, clean_logits)

    if options.method is Method.EAP:
        if constants is None:
            with torch.no_grad():
                model.last_logits(corrupted, differences.hooks(-1), prefix)
        gradients.run(clean, metric, prefix=prefix, extra_hooks=differences.hooks(1))
    else:
        with torch.no_grad():
            clean_logits = model.last_logits(clean, differences.hooks(1), prefix)
            end = model.embed(clean)
            start = model.embed(corrupted) if constants is None else constants.embedding
        pending = differences.hooks(-1) if constants is None else []
        for point in options.rule.points(options.steps):
            embedding = torch.lerp(start.expand_as(end), end, point)
            hooks, pending = (pending, []) if point == 0.0 else ([], pending)
            gradients.run(clean, metric, embedding, prefix, extra_hooks=hooks)
        if pending:  # no integration point was the corrupted run itself
            with torch.no_grad():
                model.last_logits(corrupted, pending, prefix)
    if constants is not None:
        differences.subtract(constants)
    matrix = _contract(wiring, differences, gradients, len(batch))
    return wiring.from_matrix(matrix.cpu().numpy()) / gradients.n_runs


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
