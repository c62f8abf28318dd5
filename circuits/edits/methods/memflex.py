"""MemFlex's localisation: which weights hold what is to be forgotten and not what is to stay.

Tian et al. 2024, "To Forget or Not? Towards Practical Knowledge Unlearning for Large Language
Models". The mean gradient of the loss is taken on the texts to forget and on those to retain,
with about half of the answers' tokens replaced by random ones (the published script draws half as
many places as an answer has tokens, with repetition: about 39 % of them). A weight is selected
where the two gradients point different ways (cosine below a threshold) and the first is large (mean
magnitude above a threshold). The paper localises among LoRA factors of a model that was first
fine-tuned; here it is the model's own matrices, so that no adapter is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.base.options import Options, option
from circuits.edits.parts.training import Passage, Trainee, chunks, negative_log_likelihood


@dataclass(frozen=True)
class LocalisationSettings(Options):
    """Thresholds and how the gradients are taken.

    `similarity` is the published script's 0.92 (its mu). `magnitude` is an absolute threshold (the
    script's 6e-4, its sigma, is of LoRA factors of a 7B model); None takes the `quantile` of the
    weights' mean magnitudes instead.
    `randomised` is the share of an answer's tokens replaced in each of `copies` copies.
    """

    similarity: float = option(0.92, low=-1, high=1)
    magnitude: float | None = option(None, low=0)
    quantile: float = option(0.5, low=0, high=1)
    randomised: float = option(0.5, low=0, high=1)
    copies: int = option(3, low=1)
    batch_size: int = option(8, low=1)


@dataclass(frozen=True)
class Localisation:
    """Cosine of the two gradients and mean magnitude of the first by weight, and the selection."""

    cosine: Mapping[str, float]
    magnitude: Mapping[str, float]
    threshold: float
    selected: tuple[str, ...]


def localise(
    trainee: Trainee,
    forget: Sequence[Passage],
    retain: Sequence[Passage],
    names: Sequence[str],
    settings: LocalisationSettings,
    random: np.random.Generator,
    d_vocab: int,
) -> Localisation:
    """Select among the named weights; OptionError where none passes both thresholds."""
    to_forget, to_retain = (
        _mean_gradients(trainee, texts, names, settings, random, d_vocab)
        for texts in (forget, retain)
    )
    magnitude = {name: float(gradient.abs().mean()) for name, gradient in to_forget.items()}
    cosine = {
        name: float(torch.cosine_similarity(to_forget[name].ravel(), to_retain[name].ravel(), 0))
        for name in names
    }
    if not all(map(np.isfinite, [*magnitude.values(), *cosine.values()])):
        raise NumericalError("the gradients by which MemFlex localises are not finite")
    threshold = settings.magnitude
    if threshold is None:
        threshold = float(np.quantile(list(magnitude.values()), settings.quantile))
    selected = tuple(
        name for name in names if cosine[name] < settings.similarity and magnitude[name] > threshold
    )
    if not selected:
        raise OptionError(
            f"MemFlex selects no weight: cosines from {min(cosine.values()):.2f} (must be below "
            f"{settings.similarity:g}), magnitudes up to {max(magnitude.values()):.2g} (must be "
            f"above {threshold:.2g}); change the thresholds"
        )
    return Localisation(cosine, magnitude, threshold, selected)


def _mean_gradients(
    trainee: Trainee,
    passages: Sequence[Passage],
    names: Sequence[str],
    settings: LocalisationSettings,
    random: np.random.Generator,
    d_vocab: int,
) -> dict[str, Tensor]:
    """Gradient of the mean loss over texts and copies, by weight."""
    copies = [
        _randomised(each, settings.randomised, random, d_vocab)
        for _ in range(settings.copies)
        for each in passages
    ]
    changes = trainee.train(names)
    for part in chunks(copies, settings.batch_size):
        (negative_log_likelihood(trainee, part).sum() / len(copies)).backward()
    gradients = {
        name: torch.zeros_like(change) if change.grad is None else change.grad.clone()
        for name, change in zip(names, changes, strict=True)
    }
    for change in changes:
        change.grad = None
    return gradients


def _randomised(each: Passage, share: float, random: np.random.Generator, d_vocab: int) -> Passage:
    """The passage with about this share of its scored tokens replaced by random ones."""
    ids = np.array(each.ids)
    replaced = random.random(len(ids)) < share
    replaced[: each.start] = False
    ids[replaced] = random.integers(0, d_vocab, int(replaced.sum()))
    return replace(each, ids=tuple(map(int, ids)))
