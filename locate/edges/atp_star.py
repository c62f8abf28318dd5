"""AtP*: edge attribution with attention computed anew and cancelled effects brought to light.

Kramár et al. 2024 (arXiv:2403.00745), for edges instead of nodes. Two corrections of EAP:

- *Attention.* A saturated softmax has no gradient, though another query or key would turn it. For
  an edge into a query or key the source is taken out of what that head reads, past the norm, and
  the pattern A is computed anew: score = sum over query and key positions of (A - A') . dm/dA. A
  key changes at all its positions at once, as the edge does.
- *GradDrop.* A direct and an indirect effect of opposite sign cancel in the gradient. For each of
  the L layers the backward pass is made once without that layer, past which the gradient then flows
  in the residual stream alone, and the score is the mean of |score| over the passes that reach the
  edge's destination: L - 1 for a layer's, which has no score in the pass without that layer, and
  all L for the logits, which no layer keeps a gradient from. Such scores have no sign.

Cost: L clean and backward passes with GradDrop, one without; and for attention about as many
operations as d_head times the contraction of EAP for edges into queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.facts.pairs import TokenPair
from circuits.graph.scores import EdgeScores
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Hook, Model
from circuits.model.wiring import Wiring
from locate.edges.attention import CleanAttention, check_attention, replace_attention
from locate.edges.passes import InputGradients
from locate.edges.room import lengths
from locate.edges.runs import Runs, contract_runs, no_passes
from locate.search import Scoring

PATTERN_BYTES = 512 * 2**20
"""Upper bound of the patterns' gradients that GradDrop's passes leave, of several pairs."""


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
    """Scores of all edges by AtP*; arguments and errors are those of `locate.edges.eap.attribute`.

    UnsupportedArchitectureError for attention where one head's query changes the others' or where
    no hook reaches it, OptionError for GradDrop in a model of one layer.
    """
    options = scoring.options
    if options.attention:
        check_attention(model)
    if options.drop and model.n_layers == 1:
        raise OptionError("a model of one layer has none to leave out; take `drop` false")
    if options.attention and options.drop:
        batch_size = min(batch_size, _rows(model, pairs, not scoring.ablation.is_constant))
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


def _rows(model: Model, pairs: Sequence[TokenPair], sharing: bool) -> int:
    """Pairs a batch, so that the gradients of all layers' patterns in all passes stay bounded.

    With `sharing` what the prompts have in common is run once.
    """
    sizes = lengths(pairs, sharing).values()
    most = max((run * (run + before) for run, before in sizes), default=1)
    a_pair = model.n_layers**2 * model.n_heads * most * model.dtype.itemsize
    return max(1, PATTERN_BYTES // a_pair)


def _scores(runs: Runs) -> Float[np.ndarray, "pair edge"]:
    """Each pair's scores, from one backward pass or from one a layer."""
    model, wiring, options = runs.model, runs.wiring, runs.scoring.options
    layers = range(model.n_layers)
    patterns = [taps.pattern(layer) for layer in layers] if options.attention else []
    passes = layers if options.drop else [None]
    clean = CleanAttention(model)
    hooks = [*runs.differences.hooks(1), *clean.hooks()]
    size = np.abs if options.drop else np.asarray
    total = np.zeros((len(runs.batch), wiring.n_edges), dtype=np.float32)
    by_pattern: list[list[Tensor]] = [[] for _ in patterns]
    for left_out in passes:
        gradients = InputGradients(model, wiring, also=patterns)
        gradients.run(
            runs.clean,
            runs.metric(None),
            prefix=runs.prefix,
            extra_hooks=hooks,
            changes=[] if left_out is None else _without(model, left_out),
        )
        if hooks:
            hooks = []
            runs.see_corrupted()
        # At once: of L passes all that layers read would take L times the memory of one.
        total += size(runs.scores(gradients))
        for kept, name in zip(by_pattern, patterns, strict=True):
            kept.append(gradients.others[name])
    if options.attention:
        stacked = [torch.stack(by_pattern.pop(0)) for _ in patterns]
        replace_attention(runs, clean, stacked, total, options.drop)
    return total / _reached(wiring, len(passes))


def _reached(wiring: Wiring, n_passes: int) -> Float[np.ndarray, " edge"]:
    """How many of the passes reach each edge's destination: all but the one without its layer."""
    to_logits = wiring.edge_dst == wiring.logits_dst
    return np.where(to_logits | (n_passes == 1), n_passes, n_passes - 1).astype(np.float32)


def _without(model: Model, layer: int) -> list[Hook]:
    """Hooks that keep the gradient from a layer's attention and MLP."""
    points = (model.taps.attention_out(layer), model.taps.mlp_out(layer))
    return [(point, lambda value, hook: value.detach()) for point in points]
