"""Exact patching of neurons: what the metric loses when some of an MLP's take corrupted values.

The clean prompt runs; at all positions some neurons of one MLP have the activations that they have
for the corrupted prompt, and everything after them is computed. With all neurons it is patching
the MLP. The stream after the MLP's layer is that of the clean run plus what the change of these
activations changes in what the MLP writes, through the norm that follows it where there is one; so
only later layers run, from the first position on in which the prompts differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import Metric, MetricLike
from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.model import taps
from circuits.model.continuing import run_above
from circuits.model.holding import alone
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Hook, Model
from locate.neurons.scoring import check_neurons

ROWS = 4
"""So many times the batch's rows are run at once, as no gradient is kept."""
Sets = Mapping[int, Sequence[Sequence[int] | None]]
"""For a layer the sets of its MLP's neurons to patch, one after the other; None is all of them."""


@alone
@torch.no_grad()
def patch_neurons(
    model: Model,
    pairs: Sequence[TokenPair],
    sets: Sets,
    *,
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> tuple[Float[np.ndarray, " pair"], dict[int, Float[np.ndarray, "pair set"]]]:
    """The metric of each pair's clean run, and by layer what it is with each set patched.

    One run of the later layers a set and batch. Errors are those of `score_neurons`.
    """
    metric = Metric.of(metric)
    metric.check_one_token("the patching of neurons")
    layers = sorted(sets)
    check_neurons(model, layers)
    if not pairs:
        raise OptionError("there are no prompt pairs to patch")
    clean = np.empty(len(pairs))
    patched = {layer: np.empty((len(pairs), len(sets[layer]))) for layer in layers}
    done = 0
    for batch in batches(pairs, batch_size, model):
        runs = _BothRuns(model, batch, layers)
        rows = list(batch.index)

        def value(
            logits: Float[Tensor, "batch d_vocab"],
            batch: PairBatch = batch,
            before: Tensor = runs.logits,
        ) -> np.ndarray:
            found = evaluate_metric(metric, logits, batch.wanted, batch.unwanted, before)
            return found.float().cpu().numpy()

        clean[rows] = value(runs.logits)
        for layer in layers:
            together = max(1, ROWS * batch_size // len(batch))
            for first in range(0, len(sets[layer]), together):
                some = sets[layer][first : first + together]
                for place, logits in enumerate(runs.patched(layer, some), first):
                    patched[layer][rows, place] = value(logits)
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))
    finite = np.isfinite(clean)
    for found in patched.values():
        finite &= np.isfinite(found).all(1)
    if not finite.all():
        prompt = pairs[int(np.flatnonzero(~finite)[0])].text.clean
        raise NumericalError(
            f"the metric is not a finite number for {prompt!r}; {model.why_not_finite()}"
        )
    return clean, patched


class _BothRuns:
    """The clean runs of a batch, and what their MLPs' neurons are in the corrupted ones."""

    def __init__(self, model: Model, batch: PairBatch, layers: Sequence[int]) -> None:
        self.model, self.n_examples = model, len(batch)
        start = batch.first_difference
        self.prefix = model.share_prefix(batch.clean[:, :start])
        self.seen: dict[str, Tensor] = {}
        self.changes: dict[int, Tensor] = {}

        def keep(key: str, value: Tensor, hook: object) -> None:
            self.seen[key] = value.reshape(self.n_examples, -1, value.shape[-1]).clone()

        def change(layer: int, value: Tensor, hook: object) -> None:
            before = self.seen.pop(f"keys.{layer}")
            self.changes[layer] = value.reshape(before.shape) - before

        hooks: list[Hook] = []
        for layer in layers:
            hooks += [
                (taps.mlp_keys(layer), partial(keep, f"keys.{layer}")),
                (taps.mlp_raw(layer), partial(keep, f"raw.{layer}")),
                (taps.resid_post(layer), partial(keep, f"after.{layer}")),
            ]
        self.logits = model.last_logits(batch.clean[:, start:], hooks, self.prefix)
        reads: list[Hook] = [(taps.mlp_keys(layer), partial(change, layer)) for layer in layers]
        model.last_logits(batch.corrupted[:, start:], reads, self.prefix)

    def patched(
        self, layer: int, sets: Sequence[Sequence[int] | None]
    ) -> Float[Tensor, "set batch d_vocab"]:
        """Logits with each set of the layer's neurons, or all, as in the corrupted runs."""
        model = self.model
        rest = self.seen[f"after.{layer}"] - model.after_mlp(layer, self.seen[f"raw.{layer}"])
        raw = [self._raw(layer, chosen) for chosen in sets]
        residual = torch.cat([rest + model.after_mlp(layer, each) for each in raw])
        residual = run_above(model, layer, residual, self.prefix, at=slice(-1, None))
        return model.unembed(residual[:, 0]).unflatten(0, (len(sets), -1))

    def _raw(self, layer: int, chosen: Sequence[int] | None) -> Float[Tensor, "batch pos d_model"]:
        """What the output matrix gives with these neurons, or all, changed."""
        raw = self.seen[f"raw.{layer}"]
        change, weight = self.changes[layer], self.model.mlp_output_matrix(layer)
        if chosen is not None:
            some = torch.as_tensor(chosen, dtype=torch.long, device=raw.device)
            change, weight = change[..., some], weight[:, some]
        return raw + change @ weight.T
