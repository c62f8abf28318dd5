"""The sources of a running circuit whose outputs differ from the base run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class LiveSources:
    """Changes (now - base) of the sources that differ from the base run so far.

    `span_rows` are each span's rows, none where spans are not told apart.
    """

    def __init__(
        self,
        embedding_change: Float[Tensor, "row d_model"],
        n_examples: int,
        kept: Bool[Tensor, "span src dst"],
        span_rows: Sequence[Tensor],
        last_span: int,
    ) -> None:
        self.n_examples, self.span_rows, self.last_span = n_examples, span_rows, last_span
        # A source that nothing reads is never computed.
        capacity = int(kept.any(2).any(0).sum()) + 1
        self.changes = embedding_change.new_empty(capacity, *embedding_change.shape)
        self.changes[0] = embedding_change
        self.index = torch.zeros(1, dtype=torch.long, device=kept.device)

    def rows_of(self, columns: Bool[Tensor, "span src dst"]) -> Bool[Tensor, "span live dst"]:
        """The rows of the sources that are live so far, in the order of their changes."""
        return columns[:, self.index]

    def sum_into(
        self, columns: Bool[Tensor, "span any dst"], live_rows: bool = False
    ) -> Float[Tensor, "dst row d_model"]:
        """Summed changes along the kept edges into each destination."""
        mask = columns if live_rows else self.rows_of(columns)
        changes = self.changes[: len(self.index)]
        weights = mask.transpose(1, 2).to(changes.dtype)
        if len(weights) == 1:
            return (weights[0] @ changes.flatten(1)).view(-1, *changes.shape[1:])
        result = changes.new_empty(weights.shape[1], *changes.shape[1:])
        for rows, weight in zip(self.span_rows, weights, strict=True):
            if len(rows):
                part = changes[:, rows]
                result[:, rows] = (weight @ part.flatten(1)).view(-1, *part.shape[1:])
        return result

    def keep_last_position(self, last: Int[Tensor, " batch"]) -> None:
        """Drop all positions but each example's last; rows are then examples."""
        self.changes = self.changes[:, last]
        every = torch.arange(self.n_examples, device=self.changes.device)
        self.span_rows = [
            every if place == self.last_span else every[:0] for place in range(len(self.span_rows))
        ]

    def add(self, changes: Float[Tensor, "new row d_model"], index: Tensor) -> None:
        """Further sources that differ, `index` their numbers in the wiring."""
        first = len(self.index)
        self.changes[first : first + len(index)] = changes
        self.index = torch.cat([self.index, index])
