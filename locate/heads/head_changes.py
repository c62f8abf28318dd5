"""What single heads do differently after an edit: where they look and what they write.

A head writes for the old object or for the new one as much as direct logit attribution says
(`locate.states.lens`), at the last token of the clean prompts, averaged over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.comparison import Comparison
from circuits.graph.noise import Decision
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.wiring import Wiring, node_kind
from locate.heads.attention import read_heads
from locate.heads.head_change import HeadChange
from locate.heads.readings import REGIONS, HeadReadings
from locate.states.attribution import head_logits

N_WRITTEN = 5
_LOGIT_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class HeadViews:
    """One model's heads on the clean prompts, by layer and head.

    `old` and `new` are what a head adds to the logit of the old and of the new object over the
    mean of all tokens, averaged over prompts.
    """

    readings: HeadReadings
    old: Float[np.ndarray, "layer head"]
    new: Float[np.ndarray, "layer head"]


@alone
def view_heads(model: Model, asked: Sequence[TokenPair], batch_size: int = 16) -> HeadViews:
    """Read every head on the pairs' clean prompts; answer and foil are the old and new object."""
    readings = read_heads(model, asked, batch_size=batch_size, n_written=N_WRITTEN)
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    step = max(1, _LOGIT_BYTES // (4 * min(batch_size, len(asked)) * model.d_vocab))
    sums = torch.zeros(2, len(heads), dtype=torch.float64)
    for batch in batches(asked, batch_size, model):
        objects = torch.stack([batch.answer, batch.foil], -1)[:, None]
        for start in range(0, len(heads), step):
            part = slice(start, start + step)
            logits = head_logits(model, batch.clean, heads[part])
            logits = logits - logits.mean(-1, keepdim=True)
            added = logits.gather(-1, objects.expand(-1, logits.shape[1], -1))
            sums[:, part] += added.sum(0).T.cpu().double()
    old, new = (sums / len(asked)).view(2, model.n_layers, model.n_heads).numpy()
    return HeadViews(readings, old, new)


def head_changes(
    model: Model,
    comparison: Comparison,
    before: HeadViews,
    after: HeadViews,
    n_heads: int,
    roles: Mapping[str, str],
) -> tuple[HeadChange, ...]:
    """The heads whose edges moved most and those whose own words swung most, by mass moved."""
    wiring = comparison.before.wiring
    moved, changed = moved_by_source(comparison)
    swing = (after.new - after.old) - (before.new - before.old)
    heads = [src for src, name in enumerate(wiring.src_names) if node_kind(name) == "head"]
    by_mass = sorted(heads, key=lambda src: -moved[src])
    by_swing = sorted(heads, key=lambda src: -abs(swing[_place(wiring, src)]))
    shown = sorted({*by_mass[:n_heads], *by_swing[:n_heads]}, key=lambda src: (-moved[src], src))
    return tuple(
        _one(model, wiring, src, float(moved[src]), int(changed[src]), (before, after), roles)
        for src in shown
    )


def moved_by_source(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """For each source the score mass moved on, and the number called changed of, its edges."""
    wiring = comparison.before.wiring
    assert comparison.scores is not None, "a rewiring has scores"
    assert comparison.changes is not None, "a rewiring has a noise floor"
    left, right = (values.astype(np.float64) for values in comparison.scores)
    called = comparison.changes.called(Decision.CHANGED).astype(float)
    moved = np.bincount(wiring.edge_src, np.abs(right - left), wiring.n_src)
    return moved, np.bincount(wiring.edge_src, called, wiring.n_src)


def _one(
    model: Model,
    wiring: Wiring,
    src: int,
    moved: float,
    changed: int,
    views: tuple[HeadViews, HeadViews],
    roles: Mapping[str, str],
) -> HeadChange:
    layer, head = _place(wiring, src)
    name = wiring.src_names[src]
    old = [float(view.old[layer, head]) for view in views]
    new = [float(view.new[layer, head]) for view in views]
    shares = [view.readings.weighted[:, layer, head].mean(0, dtype=np.float64) for view in views]
    attention = [dict(zip(REGIONS, share.tolist(), strict=True)) for share in shares]
    written = [
        tuple(model.tokenizer.token_string(token) for token in view.readings.written[layer][head])
        for view in views
    ]
    return HeadChange(
        name=name,
        role=roles.get(name, ""),
        moved=moved,
        changed=changed,
        old=(old[0], old[1]),
        new=(new[0], new[1]),
        attention=(attention[0], attention[1]),
        written=(written[0], written[1]),
    )


def _place(wiring: Wiring, src: int) -> tuple[int, int]:
    """Layer and head of a source that is a head."""
    return divmod(src - 1, wiring.n_heads + 1)
