"""What attention heads do at the last token: where they look, and what they write from there.

A head's output at the last token is a sum over the positions j that it looks at,

    output = sum_j  pattern_j * (v_j W_O),

and with the final norm's scale frozen at the value of this run every term adds a fixed amount to
every logit (direct logit attribution; Elhage et al. 2021). So what a head writes splits exactly by
where it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.model import taps
from circuits.model.holding import alone
from circuits.model.model import Hook, Model
from locate.heads.readings import REGIONS, HeadReadings, Region
from locate.heads.weighted import LastAttention, shares, value_norms
from locate.states.frozen_norm import FrozenNorm

Watch = Callable[[int, Sequence[int], Float[Tensor, "batch head d_model"]], None]
"""Is given a layer, places of pairs, and what each head gives to the output matrix there."""


def rivals(
    model: Model, pairs: Sequence[TokenPair], objects: Sequence[int] | None = None
) -> list[tuple[int, ...]]:
    """For each pair the relation's other objects: first tokens without the pair's answer.

    By default a relation's objects are the answers and foils of its pairs. OptionError for tokens
    that are not in the vocabulary, and where nothing but the answer is left.
    """
    if objects is None:
        known: dict[str | None, set[int]] = {}
        for pair in pairs:
            known.setdefault(pair.text.relation, set()).update((pair.answer, pair.foil))
        ranges = [known[pair.text.relation] for pair in pairs]
    else:
        bad = [token for token in objects if not 0 <= token < model.d_vocab]
        if bad:
            raise OptionError(f"object token {bad[0]} is not in a vocabulary of {model.d_vocab}")
        ranges = [set(objects)] * len(pairs)
    others = [tuple(sorted(found - {p.answer})) for found, p in zip(ranges, pairs, strict=True)]
    for pair, left in zip(pairs, others, strict=True):
        if not left:
            raise OptionError(
                f"the only object given is the answer {pair.text.answer!r} of "
                f"{pair.text.clean!r}; name others of the relation"
            )
    return others


def check_subjects(pairs: Sequence[TokenPair]) -> None:
    """OptionError where there is no pair, or one that does not say what its subject is."""
    if not pairs:
        raise OptionError("there are no prompt pairs to read")
    for number, pair in enumerate(pairs, start=1):
        if pair.subject is None:
            raise OptionError(
                f"pair {number} ({pair.text.clean!r}) names no subject to look at; "
                'add "subject" to its line'
            )


@alone
@torch.no_grad()
def read_heads(
    model: Model,
    pairs: Sequence[TokenPair],
    objects: Sequence[int] | None = None,
    *,
    batch_size: int = 16,
    n_written: int = 5,
    watch: Watch | None = None,
) -> HeadReadings:
    """Attention and direct logit attribution of every head at the last token of clean prompts.

    `objects` are first tokens of the relation's objects (see `rivals`). `watch` is called with what
    the heads of each layer write in each batch, on the model's device. Raises NumericalError where
    a number is not finite, naming the prompt.
    """
    check_subjects(pairs)
    others = rivals(model, pairs, objects)
    precise = torch.promote_types(model.dtype, torch.float32)
    unembedding = model.unembedding().to(precise)
    total = unembedding.sum(0)
    shape = (4, len(pairs), model.n_layers, model.n_heads, len(REGIONS))
    numbers = np.empty(shape, dtype=np.float32)
    written = torch.zeros(
        model.n_layers, model.n_heads, model.d_model, dtype=torch.float64
    )  # on the CPU, as MPS has no float64
    for batch in batches(pairs, batch_size, model, mixed=True, whole=True):
        rows = list(batch.index)
        looked, final = LastAttention(model, range(model.n_layers), batch.ends), list[Tensor]()
        last = taps.resid_post(model.n_layers - 1)
        keep: Hook = (last, lambda value, hook, final=final: final.append(value))
        model.last_logits(batch.clean, [*looked.hooks, keep], ends=batch.ends)
        norm = FrozenNorm.of_run(model, looked.at_end(final[0]).to(precise))
        contrasts = [_contrasts(unembedding, total, pairs[row], others[row]) for row in rows]
        answers, ranges = (
            norm.pull_back(torch.stack(side)) for side in zip(*contrasts, strict=True)
        )
        regions = _region_masks(batch, pairs).to(precise)
        for layer in range(model.n_layers):
            pattern, values = looked.pattern(layer).to(precise), looked.values(layer).to(precise)
            output = model.head_output_weights(layer).to(precise)
            split = _split_by_position(pattern, values, output, answers, ranges)
            by_region = torch.einsum("nbhp,bpr->nbhr", split, regions)
            by_region[1] = shares(by_region[1], by_region[0])
            numbers[:, rows, layer] = by_region.cpu().numpy()
            mixed = torch.einsum("bhp,bhpe,hed->bhd", pattern, values, output)
            reached = norm.apply(mixed)
            written[layer] += reached.cpu().double().sum(0)
            if watch is not None:
                watch(layer, rows, reached)
    for row in np.flatnonzero(~np.isfinite(numbers).all((0, 2, 3, 4))).tolist():
        raise NumericalError(f"heads write NaN or infinity for {pairs[row].text.clean!r}")
    n_written = min(n_written, model.d_vocab)
    tokens = [
        (heads.to(unembedding) @ unembedding.T).topk(n_written, -1).indices.tolist()
        for heads in written
    ]
    raised = tuple(tuple(map(tuple, heads)) for heads in tokens)
    return HeadReadings(numbers[0], numbers[1], numbers[2], numbers[3], raised)


def _contrasts(
    unembedding: Float[Tensor, "d_vocab d_model"],
    total: Float[Tensor, " d_model"],
    pair: TokenPair,
    others: tuple[int, ...],
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """Answer minus mean of the others, and mean of the others minus mean of the rest."""
    answer, rival = unembedding[pair.answer], unembedding[list(others)]
    n_rest = len(unembedding) - len(others) - 1
    rest = (total - rival.sum(0) - answer) / max(n_rest, 1)
    return answer - rival.mean(0), rival.mean(0) - rest


def _region_masks(
    batch: PairBatch, pairs: Sequence[TokenPair]
) -> Float[Tensor, "batch pos region"]:
    """One 1 a position, none where a row is padded."""
    width = batch.clean.shape[1]
    masks = torch.zeros(len(batch), width, len(REGIONS), device=batch.clean.device)
    for place, row in enumerate(batch.index):
        start, length = pairs[row].start, len(pairs[row].clean)
        regions = [Region.EXAMPLES] * start + [Region.RELATION] * (length - start)
        regions[-1] = Region.SELF
        if pairs[row].clean.bos:
            regions[0] = Region.BOS
        span = pairs[row].subject
        assert span is not None, "checked by the caller"
        regions[span.start : span.stop] = [Region.SUBJECT] * len(span)
        columns = torch.tensor([REGIONS.index(region) for region in regions])
        masks[place, torch.arange(length), columns] = 1
    return masks


def _split_by_position(
    pattern: Float[Tensor, "batch head pos"],
    values: Float[Tensor, "batch head pos d_head"],
    output: Float[Tensor, "head d_head d_model"],
    answers: Float[Tensor, "batch d_model"],
    ranges: Float[Tensor, "batch d_model"],
) -> Float[Tensor, "quantity batch head pos"]:
    """Attention, attention times the norm of v W_O, and the two gains of every position."""

    def gain(direction: Tensor) -> Tensor:
        seen = torch.einsum("hed,bd->bhe", output, direction)
        return pattern * torch.einsum("bhpe,bhe->bhp", values, seen)

    return torch.stack(
        [pattern, pattern * value_norms(values, output), gain(answers), gain(ranges)]
    )
