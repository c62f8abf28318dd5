"""A change of weights that is the product of two thin matrices, which are trained (LoRA)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.edits.edit import LowRank, WeightDelta
from circuits.edits.parts.training import Trainee
from circuits.model.model import Model


class LowRankTrainee(Trainee):
    """A model as a function of W + scale * B A, for some of its matrices W [out, in].

    A [rank, in] is drawn uniformly between -1/sqrt(in) and 1/sqrt(in), B [out, rank] is zero, so
    that the change begins as none (Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1; the
    uniform draw is that of its released code). Both are in fp32, and drawn on the CPU.
    """

    def __init__(
        self,
        model: Model,
        names: Sequence[str],
        rank: int,
        scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__(model)
        if not names:
            raise OptionError("there is no weight to train")
        self.scale = scale
        self._factors = {name: self._begin(name, rank, generator) for name in names}

    @property
    def names(self) -> Iterable[str]:
        """Names of the weights that have a change."""
        return self._factors

    @property
    def factors(self) -> list[Tensor]:
        """B and A of every weight: what an optimiser moves."""
        return [factor for pair in self._factors.values() for factor in pair]

    def delta(self, provenance: dict[str, Any] | None = None) -> WeightDelta:  # type: ignore[override]
        """The change so far, as a value."""
        changes = {
            name: LowRank(self.scale * left.detach(), right.detach().clone())
            for name, (left, right) in self._factors.items()
        }
        return WeightDelta(changes, provenance or {})

    def _begin(
        self, name: str, rank: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "row rank"], Float[Tensor, "rank col"]]:
        """Both factors as the matrix is held: where that is input by output, A stands left."""
        rows, columns = self.model.shape(name)
        reads_rows = self.model.is_transposed(name)
        width = rows if reads_rows else columns
        drawn = (2 * torch.rand(rank, width, generator=generator) - 1) / sqrt(width)
        written = torch.zeros(rank, columns if reads_rows else rows)
        left, right = (drawn.T, written) if reads_rows else (written.T, drawn)
        parts = (part.contiguous().to(self.device).requires_grad_() for part in (left, right))
        return next(parts), next(parts)

    def _dense(self, name: str) -> Tensor:
        left, right = self._factors[name]
        return self.scale * (left @ right)
