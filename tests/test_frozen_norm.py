"""Laws of the final norm with its denominator frozen."""

from __future__ import annotations

import torch

from circuits.model.model import Model
from locate.states.frozen_norm import FrozenNorm


def residuals(model: Model, count: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *shape, model.d_model, generator=generator) * 3 + 1


def test_on_its_own_residual_it_is_the_models_norm(model: Model) -> None:
    final = residuals(model, 4)
    shift = model.final_norm()[1]
    found = FrozenNorm.of_run(model, final).apply(final)
    found = found if shift is None else found + shift
    torch.testing.assert_close(found @ model.unembedding().T, model.unembed(final))


def test_parts_add_up(model: Model) -> None:
    parts = residuals(model, 4, 3)
    norm = FrozenNorm.of_run(model, parts.sum(1))
    torch.testing.assert_close(norm.apply(parts).sum(1), norm.apply(parts.sum(1)))


def test_pulling_a_direction_back_is_the_adjoint_of_applying(model: Model) -> None:
    norm = FrozenNorm.of_run(model, residuals(model, 4))
    part, direction = residuals(model, 4) * 2, residuals(model, 4).flip(0)
    torch.testing.assert_close(
        (norm.pull_back(direction) * part).sum(-1), (direction * norm.apply(part)).sum(-1)
    )
