"""The logit lens over many facts: by layer, what the residual stream ranks first.

Three things are followed: the answer, the other objects of the relation (the best of them: what
has the right type but belongs to another subject) and the subject's own tokens (the best of them).
Enrichment lifts all objects at once, recall lifts the answer above its rivals (Geva et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.model.holding import alone
from circuits.model.metrics import rank_of
from circuits.model.model import Model
from locate.heads.attention import rivals
from locate.heads.observed import of_clean_prompts
from locate.states.lens import residual_states
from locate.states.lens_curves import AverageLens, Followed, Place


@alone
@torch.no_grad()
def average_lens(
    model: Model,
    pairs: Sequence[TokenPair],
    objects: Sequence[int] | None = None,
    *,
    batch_size: int = 16,
) -> AverageLens:
    """The logit lens on every pair's clean prompt.

    `objects` are first tokens of the relation's objects, by default those of the pairs (see
    `locate.heads.attention.rivals`). Where some pair names no subject, the subject is left out.
    """
    if not pairs:
        raise OptionError("there are no prompt pairs to work on")
    named = all(pair.subject is not None for pair in pairs)
    places = tuple(Place) if named else (Place.LAST,)
    followed = tuple(Followed) if named else (Followed.ANSWER, Followed.OTHERS)
    others = rivals(model, pairs, objects)
    shape = (len(pairs), model.n_layers + 1, len(places), len(followed))
    ranks, probabilities = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
    for batch in batches(pairs, batch_size, model):
        rows = list(batch.index)
        wanted = [_tokens(pairs[row], others[row]) for row in rows]
        where = torch.tensor([_positions(pairs[row])[: len(places)] for row in rows])
        for state, residual in enumerate(
            residual_states(model, batch.clean, where.to(model.device))
        ):
            logits = model.unembed(residual).float()  # a state at a time: the vocabulary is large
            for column, what in enumerate(followed):
                best = _best(logits, [tokens[what] for tokens in wanted])
                place, probability = rank_of(logits, best), (best - logits.logsumexp(-1)).exp()
                ranks[rows, state, :, column] = place.cpu().numpy()
                probabilities[rows, state, :, column] = probability.cpu().numpy()
    provenance = {**model.provenance, "method": "logit lens", "bos": pairs[0].clean.bos}
    provenance["prompts"] = [pair.text.clean for pair in pairs]
    provenance |= of_clean_prompts(pairs)
    return AverageLens(places, followed, ranks, probabilities, provenance)


def _positions(pair: TokenPair) -> list[int]:
    last = len(pair.clean) - 1
    return [last, last if pair.subject is None else pair.subject.last]


def _tokens(pair: TokenPair, others: tuple[int, ...]) -> dict[Followed, tuple[int, ...]]:
    tokens = {Followed.ANSWER: (pair.answer,), Followed.OTHERS: others}
    if pair.subject is not None:
        tokens[Followed.SUBJECT] = pair.clean.ids[pair.subject.start : pair.subject.stop]
    return tokens


def _best(
    logits: Float[Tensor, "batch place d_vocab"], tokens: Sequence[tuple[int, ...]]
) -> Float[Tensor, "batch place"]:
    """The highest logit among each example's tokens."""
    best = [row[:, list(wanted)].amax(-1) for row, wanted in zip(logits, tokens, strict=True)]
    return torch.stack(best)
