"""Attribution to neurons: which neurons of an MLP its part in the answer comes from.

What an MLP writes is W a + b, with one activation a_i a neuron after the nonlinearity (in a gated
MLP after the product with the gate), so that its attribution is a sum over neurons:

    score(i) = sum over positions of (clean - corrupted a_i) (w_i . g)

with w_i the i-th column of W, and g = dm/d(what the MLP writes) as the chosen locator takes it: at
the clean run (EAP), averaged along the path of the embedding (EAP-IG) or of what this MLP writes
(EAP-IG on activations), or by the rules of RelP and GIM. It is attribution patching (Syed et al.
2023) of neurons in the place of heads. Before a norm that follows the MLP, each run's activations
are divided by what that norm divides by in this run, and w_i has its gain, as for heads.

The scores of an MLP's neurons sum to the score of the MLP itself,

    sum over positions of (clean - corrupted output of the MLP) . g

EAP-IG's g is one vector a position for all neurons, so that no pass is added to those of EAP-IG.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Hook, Model
from circuits.model.patches import Kind
from locate.edges.activation_path import Stage
from locate.edges.eap import PASSES, rules_of
from locate.edges.locators import Locator
from locate.edges.recording import Differences, Gradients
from locate.edges.rules import PLAIN
from locate.edges.runs import Recorded
from locate.search import Scoring

AFTER = "ln2_post"
"""The norm after an MLP."""


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """Scores of the neurons of some MLPs, and of these MLPs themselves.

    `mean` is over pairs, `nodes` what the MLP scores as a whole, from what it writes. Of the
    neurons that were `chosen`, `per_pair` are the scores of single pairs; `places` the positions
    of the clean prompt at which each has its largest part, by size; `changes` its clean minus
    corrupted activation there.
    """

    layers: tuple[int, ...]
    mean: Float[np.ndarray, "mlp d_mlp"]
    nodes: Float[np.ndarray, "pair mlp"]
    per_pair: Float[np.ndarray, "pair mlp chosen"]
    places: Int[np.ndarray, "pair mlp chosen"]
    changes: Float[np.ndarray, "pair mlp chosen"]


Chosen = Mapping[int, Sequence[int]]
"""Neurons by layer, as many in each."""


@alone
def score_neurons(
    model: Model,
    pairs: Sequence[TokenPair],
    layers: Sequence[int],
    scoring: Scoring,
    chosen: Chosen | None = None,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> NeuronScores:
    """The neurons of the layers' MLPs, and what is kept of those that are chosen (by default none).

    Raises UnsupportedArchitectureError for mixtures of experts, OptionError where a patch sets what
    one of these MLPs writes, NumericalError naming the pair whose scores are not finite.
    """
    check_neurons(model, layers)
    scoring.metric.check_one_token("the scoring of neurons")
    if not pairs:
        raise OptionError("there are no prompt pairs to score")
    kept = [list((chosen or {}).get(layer, ())) for layer in layers]
    d_mlp = model.mlp_output_matrix(layers[0]).shape[1]
    total = np.zeros((len(layers), d_mlp))
    nodes = np.empty((len(pairs), len(layers)), dtype=np.float32)
    shape = (len(pairs), len(layers), len(kept[0]))
    per_pair, changes = (np.empty(shape, dtype=np.float32) for _ in range(2))
    places = np.empty(shape, dtype=np.int64)
    done = 0
    for batch in batches(pairs, batch_size, model):
        rows = list(batch.index)
        for at, found in enumerate(_attributed(model, batch, layers, scoring)):
            scores = found.scores
            _check_finite(model, found, scores, pairs)
            total[at] += scores.cpu().double().sum(0).numpy()
            nodes[rows, at] = found.node.float().cpu().numpy()
            if kept[at]:
                place, change = found.largest(kept[at])
                per_pair[rows, at] = scores[:, kept[at]].float().cpu().numpy()
                places[rows, at] = place.cpu().numpy()
                changes[rows, at] = change.float().cpu().numpy()
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))
    mean = (total / len(pairs)).astype(np.float32)
    return NeuronScores(tuple(layers), mean, nodes, per_pair, places, changes)


def check_neurons(model: Model, layers: Sequence[int]) -> None:
    """Refuse, before any pass, MLPs whose output is no sum over neurons."""
    model.check_neurons()
    if not layers:
        raise OptionError("name at least one MLP whose neurons are asked for")
    model.patching.check_parts(model.name)
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise OptionError(f"{model.name!r} has the MLPs m0 to m{model.n_layers - 1}")
        if any(not patch.adds for patch in model.patching.of(Kind.MLP, layer)):
            raise OptionError(f"a patch sets what m{layer} writes, so its neurons write nothing")


def directions(model: Model, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """What each neuron of a layer writes, a column a neuron, with the gain of a norm after it."""
    weight, norm = model.mlp_output_matrix(layer), model.norm(layer, AFTER)
    return weight if norm is None else weight * norm.gain[:, None]


@dataclass(frozen=True, eq=False)
class _Attributed:
    """The neurons of one MLP on a batch of pairs, at the positions from `shared` on.

    `changes` are clean minus corrupted activations, `gradients` w_i . g, `node` the MLP's score.
    """

    layer: int
    batch: PairBatch
    shared: int
    changes: Float[Tensor, "batch pos d_mlp"]
    gradients: Float[Tensor, "batch pos d_mlp"]
    node: Float[Tensor, " batch"]

    @property
    def scores(self) -> Float[Tensor, "batch d_mlp"]:
        """Each neuron's score."""
        return torch.einsum("bpi,bpi->bi", self.changes, self.gradients)

    def largest(
        self, chosen: list[int]
    ) -> tuple[Int[Tensor, "batch chosen"], Float[Tensor, "batch chosen"]]:
        """Where in the prompt each neuron's part is largest, and its change of activation there."""
        changes = self.changes[..., chosen]
        places = (changes * self.gradients[..., chosen]).abs().argmax(1)
        return places + self.shared, changes.gather(1, places[:, None])[:, 0]


class NeuronDifferences(Differences):
    """Clean minus corrupted activations of some MLPs' neurons, and of what these MLPs write."""

    def __init__(self, model: Model, layers: Sequence[int]) -> None:
        super().__init__(model)
        self.layers = layers

    def hooks(self, sign: int) -> list[Hook]:
        """Hooks that add (sign 1) or subtract (sign -1) this run's values."""
        return [hook for layer in self.layers for hook in self._of(layer, sign)]

    def _of(self, layer: int, sign: int) -> list[Hook]:
        raw: list[Tensor] = []
        normed = self.model.architecture.normed_after

        def activations(value: Tensor, hook: object) -> None:
            if normed:
                raw[:] = [value.detach()]
            else:
                self.add(f"neurons.{layer}", value, sign)

        def divide(scale: Tensor, hook: object) -> None:
            value = raw.pop()
            scale = scale.reshape(*value.shape[:-1], 1).to(value.dtype)
            self.add(f"neurons.{layer}", value / scale, sign)

        def written(value: Tensor, hook: object) -> None:
            self.add(f"mlp.{layer}", value, sign)

        hooks: list[Hook] = [(taps.mlp_keys(layer), activations)]
        if normed:
            hooks.append((taps.norm_scale(layer, AFTER), divide))
        return [*hooks, (self.model.taps.mlp_out(layer), written)]


def _attributed(
    model: Model, batch: PairBatch, layers: Sequence[int], scoring: Scoring
) -> Iterator[_Attributed]:
    """The neurons of each layer, from the runs that the method makes."""
    on_path = scoring.method == Locator.EAP_IG_ACTIVATIONS
    outputs = [] if on_path else [taps.resid_post(layer) for layer in layers]
    rules = PLAIN if on_path else rules_of(scoring)
    runs = Recorded(
        model=model,
        scoring=scoring,
        batch=batch,
        shared=batch.first_difference,
        prefix=model.share_prefix(batch.clean[:, : batch.first_difference]),
        differences=NeuronDifferences(model, layers),
        gradients=Gradients(model, rules, outputs),
        constants=None,
    )
    if on_path:
        with torch.no_grad():
            hooks = runs.differences.hooks(1)
            clean_logits = model.last_logits(runs.clean, hooks, runs.prefix)
        runs.see_corrupted()
    else:
        PASSES[scoring.method](runs)
    values = runs.differences.values
    for layer in layers:
        gradients = _on_its_path(runs, layer, clean_logits) if on_path else runs.gradients
        # What an MLP writes is added to the stream, so that its gradient is that of the stream.
        at_output = gradients.others[taps.resid_post(layer)] / gradients.n_runs
        changes, written = (
            values[f"{name}.{layer}"].to(at_output.dtype).reshape(*at_output.shape[:2], -1)
            for name in ("neurons", "mlp")
        )
        yield _Attributed(
            layer,
            batch,
            runs.shared,
            changes,
            at_output @ directions(model, layer).to(at_output.dtype),
            torch.einsum("bpd,bpd->b", written, at_output),
        )


def _on_its_path(runs: Recorded, layer: int, clean_logits: Tensor) -> Gradients:
    """Gradients of clean runs in which this MLP alone is on its way from the corrupted run's."""
    model, scoring = runs.model, runs.scoring
    gradients = Gradients(model, PLAIN, [taps.resid_post(layer)])
    change = runs.differences.values[f"mlp.{layer}"]
    stage = Stage(range(0), layer, model.taps.mlp_out(layer), change)
    for fraction in scoring.rule.points(scoring.steps):
        metric, changes = runs.metric(clean_logits), stage.hooks(fraction)
        gradients.run(runs.clean, metric, prefix=runs.prefix, changes=changes)
    return gradients


def _check_finite(
    model: Model, found: _Attributed, scores: Tensor, pairs: Sequence[TokenPair]
) -> None:
    bad = torch.nonzero(~torch.isfinite(scores))
    if len(bad):
        row, neuron = bad[0].tolist()
        prompt = pairs[found.batch.index[row]].text.clean
        raise NumericalError(
            f"the score of m{found.layer}.n{neuron} is not a finite number for the prompt "
            f"{prompt!r}; {model.why_not_finite()}"
        )
