"""The noise that makes a model forget a subject: how large it is, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import NoiseUnit
from circuits.base.errors import OptionError
from circuits.model.model import Model


def subject_noise(
    model: Model, length: int, noise: float, samples: int, seed: int, unit: float | None = None
) -> Float[Tensor, "sample subject d_model"]:
    """The Gaussian noise for a subject of so many tokens; the same on every device.

    `unit` None is the standard deviation of the embedding matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(samples, length, model.d_model, generator=generator)
    unit = model.embedding_std() if unit is None else unit
    return (drawn * (noise * unit)).to(model.device)


def noise_std(model: Model, unit: NoiseUnit | str | float, subjects: Sequence[str]) -> float:
    """The unit of the noise as a number; OptionError for one that is not above 0."""
    if isinstance(unit, int | float) and not isinstance(unit, bool):
        if not 0 < unit < math.inf:
            raise OptionError(f"the unit of the noise is a number above 0, not {unit}")
        return float(unit)
    return {
        NoiseUnit.MATRIX: model.embedding_std,
        NoiseUnit.SUBJECTS: lambda: subjects_std(model, subjects),
    }[NoiseUnit.of(unit)]()


@torch.no_grad()
def subjects_std(model: Model, subjects: Sequence[str]) -> float:
    """Standard deviation of the embeddings of all tokens of the subjects, each once a mention."""
    ids = [token for each in subjects for token in model.tokenizer.encode(each, bos=False).ids]
    return float(model.embed(torch.tensor([ids], device=model.device)).float().std())


def check_noise(noise: float, samples: int) -> None:
    """OptionError for noise that is no number, or not drawn at all."""
    if not (math.isfinite(noise) and noise >= 0):
        raise OptionError(f"the noise must be a finite number from 0 up, not {noise}")
    if samples < 1:
        raise OptionError(f"tracing needs at least 1 noise sample, not {samples}")
