"""EAP-IG on activations: the path of the gradient is that of what the edge's source writes.

Hanna et al. 2024 (arXiv:2403.17806) interpolate the token embedding; the variant that Mueller et
al. 2025 (MIB, arXiv:2504.13151) call EAP-IG-activations interpolates what a part writes, as Marks
et al. 2024 (arXiv:2403.19647) do for features. For u in a stage, which is the embedding, all heads
of a layer or one MLP,

    score(u -> v) = sum over positions of (clean - replaced output of u) . mean over s of g_s(v),

g_s(v) being dm/d(input of v) in the clean run in which the stage writes

    replaced + t_s (clean - replaced),   t_s as in EAP-IG,

and everything after it is computed. So the scores of the edges that leave an MLP sum to what the
metric loses when that MLP's output is replaced, those of a layer's heads to what it loses when all
of them are, up to the error of the integration.

Cost: steps clean and backward passes a stage, of which there are 2 L + 1 in a model of L layers;
the backward pass goes down to the stage's layer only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.scores import EdgeScores
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Hook, Model
from locate.edges.passes import InputGradients
from locate.edges.runs import Runs, contract_runs, no_passes
from locate.search import Scoring


@alone
def attribute(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    *,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores of all edges; arguments and errors are those of `locate.edges.eap.attribute`."""
    return contract_runs(
        model,
        pairs,
        scoring,
        no_passes,
        score=_scores,
        batch_size=batch_size,
        keep_pairs=keep_pairs,
        progress=progress,
    )


@dataclass(frozen=True, eq=False)
class Stage:
    """Sources that move together: their indices, where they write, and clean minus replaced."""

    sources: range
    layer: int
    point: str
    change: Float[Tensor, "batch pos d_model"]

    def hooks(self, fraction: float) -> list[Hook]:
        """The clean run with the stage so far on its way; no gradient goes below its layer."""

        def write(value: Tensor, hook: object) -> Tensor:
            return value - (1 - fraction) * self.change.view(value.shape).to(value.dtype)

        def begin(value: Tensor, hook: object) -> Tensor:
            return value.detach().requires_grad_(True)

        below = [] if self.point == taps.EMBEDDING else [(taps.resid_pre(self.layer), begin)]
        return [*below, (self.point, write)]


def _stages(runs: Runs) -> Iterator[Stage]:
    model, wiring, values = runs.model, runs.wiring, runs.differences.values
    yield Stage(range(1), 0, taps.EMBEDDING, values["embedding"])
    for layer in range(model.n_layers):
        first, mlp = wiring.head_src(layer), wiring.mlp_src(layer)
        heads = values[f"heads.{layer}"]
        heads = heads.reshape(*heads.shape[:2], model.n_heads, model.d_head)
        together = torch.einsum("bphe,hed->bpd", heads, model.head_output_weights(layer))
        yield Stage(
            range(first, first + model.n_heads), layer, model.taps.attention_out(layer), together
        )
        yield Stage(range(mlp, mlp + 1), layer, model.taps.mlp_out(layer), values[f"mlp.{layer}"])


def _scores(runs: Runs) -> Float[np.ndarray, "pair edge"]:
    """Each pair's scores: of every stage's edges by the gradients along its own path."""
    model, wiring, scoring = runs.model, runs.wiring, runs.scoring
    with torch.no_grad():
        clean_logits = model.last_logits(runs.clean, runs.differences.hooks(1), runs.prefix)
    runs.see_corrupted()
    metric = runs.metric(clean_logits)
    scores = np.empty((len(runs.batch), wiring.n_edges), dtype=np.float32)
    for stage in _stages(runs):
        gradients = InputGradients(model, wiring)
        for fraction in scoring.rule.points(scoring.steps):
            changes = stage.hooks(fraction)
            gradients.run(runs.clean, metric, prefix=runs.prefix, changes=changes)
        edges = np.isin(wiring.edge_src, stage.sources)
        scores[:, edges] = runs.scores(gradients)[:, edges]
    return scores
