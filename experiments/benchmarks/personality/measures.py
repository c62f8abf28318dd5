"""PersonalityEdit's measures, as published and as they hold (Mao et al. 2023; EasyEdit's scripts).

An answer is read after its question, teacher-forced. `Read.own` are the log-probabilities of its
tokens where they are predicted. The published code takes those of each token at its *own* place,
where the next one is predicted. It pads texts on the left, and all rows of a batch share one mask
of questions, which ends where the shortest answer begins: of every answer as many last tokens count
as the shortest one has. `published_levels` does so. (Theirs counts the separator and `Answer:` as
part of the answer; and with MEND on Llama padding is the separator, so that the mask is another.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.model import Model

MIN_ENTROPY = 3.5
"""Bits of n-gram entropy that both texts need to count, as published."""


@dataclass(frozen=True, eq=False)
class Read:
    """An answer after a question of `start` tokens: log-probabilities in nats.

    `own` has one value an answer token; `late` one a token of question and answer, each read where
    the token after it is predicted; `whole` every token's, where the answer's are predicted.
    """

    start: int
    own: Float[Tensor, " answer"]
    late: Float[Tensor, " text"]
    whole: Float[Tensor, "answer d_vocab"]


@torch.no_grad()
def read(model: Model, asked: Sequence[tuple[str, str]], before: str = "") -> list[Read]:
    """Each answer after its prompt, on the model as it is now; `before` stands before the prompts.

    One pass an answer, so that none depends on the others. OptionError where one is too long.
    """
    hf = model.to_hf(share=True)
    found = []
    for prompt, answer in asked:
        text = before + prompt
        ids = model.tokenizer.encode(text).ids
        tokens = [*ids, *model.tokenizer.continuation(text, answer)]
        model.check_length(len(tokens))
        row = torch.tensor([tokens], device=model.device)
        scores = hf(row, use_cache=False).logits[0].float().log_softmax(-1).cpu()
        labels = torch.tensor(tokens)
        start = len(ids)
        whole = scores[start - 1 : -1]
        own = whole.gather(1, labels[start:, None])[:, 0]
        found.append(Read(start, own, scores.gather(1, labels[:, None])[:, 0], whole))
    return found


def level(answers: Sequence[Read]) -> float:
    """Mean log-probability of all tokens of the answers, which count alike, in nats."""
    return float(torch.cat([each.own for each in answers]).mean()) if answers else np.nan


def published_levels(target: Sequence[Read], others: Sequence[Read]) -> tuple[float, float]:
    """The same of target and other answers as published: late, and as much as the shortest has.

    NaN for no answers, or an empty one.
    """
    kept = min((len(each.own) for each in (*target, *others)), default=0)

    def late(answers: Sequence[Read]) -> float:
        values = [each.late[len(each.late) - kept :] for each in answers]
        return float(torch.cat(values).mean()) if values and kept else np.nan

    return late(target), late(others)


def editing_success(target: float, others: float, target_before: float) -> float:
    """sigma(l+ - l-) * min(1, exp(l+ - l+ before)), from 0 to 1; levels in nats.

    The first factor says that the target trait's answers are the likelier ones, the second takes
    off what they lost.
    """
    if np.isnan([target, others, target_before]).any():
        return np.nan
    likelier = 1 / (1 + np.exp(-np.clip(target - others, -700, 700)))
    return float(likelier * np.exp(min(0.0, target - target_before)))


def drawdown(before: Sequence[Read], after: Sequence[Read]) -> float:
    """KL(before || after), mean over all answer tokens, in nats (DD); 0 where nothing changed."""
    if not before:
        return np.nan
    values = [
        (b.whole.exp() * (b.whole - a.whole)).sum(-1) for b, a in zip(before, after, strict=True)
    ]
    return float(torch.cat(values).mean())


def coherent(before: float, after: float) -> bool:
    """Whether both texts' n-gram entropies are at least MIN_ENTROPY."""
    return before >= MIN_ENTROPY and after >= MIN_ENTROPY


def cross_entropy(probabilities: np.ndarray, target: int) -> float:
    """-log of the target trait's probability, in nats; probabilities below 1e-12 count as that."""
    return float(-np.log(max(float(probabilities[target]), 1e-12)))
