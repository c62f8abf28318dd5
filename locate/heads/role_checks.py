"""Whether a head does what its role says: the last token without it, beside a baseline.

A mover's loss should let the relation's other objects rise against the answer, a relation head's
loss tokens off the relation against its objects (Yao et al. 2024). One head is silenced at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import SourceConstants, source_constants
from circuits.model import taps
from circuits.model.continuing import before_each, run_above
from circuits.model.holding import alone
from circuits.model.model import Hook, Model
from locate.heads.attention import rivals
from locate.heads.head_check import EFFECTS, Effect, Role, Verdict


@alone
@torch.no_grad()
def ablate_heads(
    model: Model,
    pairs: Sequence[TokenPair],
    heads: Sequence[tuple[int, int]],
    objects: Sequence[int] | None = None,
    *,
    ablation: Ablation | str = Ablation.ZERO,
    batch_size: int = 16,
) -> Float[np.ndarray, "pair head effect"]:
    """How each `Effect` changes when one head (layer, head) alone is silenced at the last token.

    Only the last token's output is replaced: that is what a role is a claim about, and what the
    head does elsewhere may be another job. ZERO is the default; MEAN is the head's mean over the
    prompts' positions, which for prompts of one relation still holds part of what a relation head
    writes. PATCH is refused: the corrupted prompt asks the same relation, so
    patching leaves a relation head's output in place.
    """
    ablation = Ablation.of(ablation)
    if not ablation.is_constant:
        raise OptionError(
            "the corrupted prompt asks the same relation, so patching cannot show what a relation "
            "head is for; ablate heads by zero or mean"
        )
    others = rivals(model, pairs, objects)
    constants = source_constants(model, pairs, ablation, batch_size)
    effects = np.empty((len(pairs), len(heads), len(EFFECTS)), dtype=np.float32)
    for batch in batches(pairs, batch_size, model, mixed=True, whole=True):
        rows = list(batch.index)
        last = _LastToken(model, batch, constants)

        def outcomes(logits: Float[Tensor, "batch d_vocab"], rows: list[int] = rows) -> np.ndarray:
            found = [
                _outcome(row_logits, pairs[row].answer, others[row])
                for row_logits, row in zip(logits.float(), rows, strict=True)
            ]
            return torch.stack(found).cpu().numpy()

        clean = outcomes(last.logits)
        for place, head in enumerate(heads):
            effects[rows, place] = outcomes(last.without(*head)) - clean
    return effects


def judge(
    role: Role, effects: Mapping[Effect, Interval], excess: Mapping[Effect, Interval] | None
) -> Verdict:
    """What silencing the head says of its label.

    A mover's loss should narrow ANSWER_GAP, a relation head's RANGE_GAP, a mixture head's both.
    CONTRARY where the interval of one of these changes is above 0; CONFIRMED where all are below
    0, and, where there is a baseline, below that of the unlabelled heads as well.
    """
    gaps = {
        Role.MOVER: [Effect.ANSWER_GAP],
        Role.RELATION: [Effect.RANGE_GAP],
        Role.MIXTURE: [Effect.ANSWER_GAP, Effect.RANGE_GAP],
        Role.NONE: [],
    }[role]
    if not gaps:
        raise ValueError("a head without a role has nothing to confirm")
    if any(effects[gap].low > 0 for gap in gaps):
        return Verdict.CONTRARY
    compared = [effects] if excess is None else [effects, excess]
    lost = all(intervals[gap].high < 0 for intervals in compared for gap in gaps)
    return Verdict.CONFIRMED if lost else Verdict.NOT_CONFIRMED


def choose_controls(
    labelled: Sequence[tuple[int, int]], has_role: Bool[np.ndarray, "layer head"], seed: int
) -> list[tuple[int, int]]:
    """For each labelled head another one without a role, at random from the nearest such layer.

    None is drawn twice; fewer than labelled where the model has no more.
    """
    generator = np.random.default_rng(seed)
    free = ~has_role
    chosen = []
    for layer, _ in sorted(labelled):
        layers, heads = np.nonzero(free)
        if len(layers) == 0:
            break
        distance = np.abs(layers - layer)
        nearest = np.flatnonzero(distance == distance.min())
        pick = generator.choice(nearest)
        chosen.append((int(layers[pick]), int(heads[pick])))
        free[chosen[-1]] = False
    return chosen


def nearest_controls(
    labelled: Sequence[tuple[int, int]],
    has_role: Bool[np.ndarray, "layer head"],
    n: int,
    seed: int,
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """For each labelled head the n heads without a role of the nearest layers, or all there are.

    Among heads of equally near layers the seed decides, once for all: the labelled heads of one
    layer have the same controls, so that there are at most n a layer.
    """
    layers, heads = np.nonzero(~has_role)
    order = np.random.default_rng(seed).permutation(len(layers))
    found = {}
    for layer, head in labelled:
        nearest = order[np.argsort(np.abs(layers[order] - layer), kind="stable")][:n]
        found[layer, head] = [(int(layers[each]), int(heads[each])) for each in nearest]
    return found


class _LastToken:
    """The last token of a batch's clean prompts, as it is and without single heads.

    Earlier positions are untouched by an ablation at the last one, and so are the layers below the
    head: both run once.
    """

    def __init__(self, model: Model, batch: PairBatch, constants: SourceConstants) -> None:
        self.model, self.constants, self.own = model, constants, batch.ends
        rows = torch.arange(len(batch), device=model.device)
        last = torch.full_like(rows, batch.clean.shape[1] - 1) if self.own is None else self.own
        self.residuals: list[Float[Tensor, "batch one d_model"]] = []

        def keep(value: Tensor, hook: Any) -> None:
            self.residuals.append(value[rows, last][:, None])

        states = [*map(taps.resid_pre, range(model.n_layers)), taps.resid_post(model.n_layers - 1)]
        every = model.last_logits_and_prefix(batch.clean, [(name, keep) for name in states])[1]
        self.prefix = before_each(every, last)
        self.logits = model.unembed(self.residuals.pop()[:, -1])

    def without(self, layer: int, head: int) -> Float[Tensor, "batch d_vocab"]:
        """Logits with the head silenced."""
        model = self.model
        with model.hooks([_silence(self.constants, layer, head)]):
            residual = run_above(model, layer - 1, self.residuals[layer], self.prefix, self.own)
        return model.unembed(residual[:, -1])


def _silence(constants: SourceConstants, layer: int, head: int) -> Hook:
    constant = constants.raw_heads[layer][head]

    def replace(value: Tensor, hook: Any) -> Tensor:
        changed = value.clone()
        changed.view(*value.shape[:2], -1, len(constant))[:, -1, head] = constant
        return changed

    return taps.head_outputs(layer), replace


def _outcome(
    logits: Float[Tensor, " d_vocab"], answer: int, others: tuple[int, ...]
) -> Float[Tensor, " effect"]:
    """Each effect's quantity in one run."""
    rival = list(others)
    off = torch.ones_like(logits, dtype=torch.bool)
    off[[answer, *rival]] = False
    shares = logits.softmax(-1)
    middle = logits[rival].mean()
    gaps = [logits[answer] - middle, middle - logits[off].mean()]
    return torch.stack([*gaps, shares[answer], shares[rival].sum(), shares[off].sum()])
