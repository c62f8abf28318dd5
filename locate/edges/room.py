"""How many pairs attribution takes at a time so that it stays within a bound on memory.

1. Passes on a few short prompts tell what every moment of a pass holds at any length
   (`circuits.model.footprint`).
2. Of a length's pairs as many make a batch as the bound has room for. Where it has none for one
   pair, blocks are run again for their gradients (`circuits.model.recomputing`).
3. What sources and gradients take in d_model space is cut to the room that is left, if need be to
   one position at a time.

The bound holds for what attribution makes beside the model; `SLACK` is for what the allocator adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from torch import Tensor

from circuits.base.errors import OptionError
from circuits.base.sizes import shown
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.model.footprint import Footprint, Growth
from circuits.model.model import Model
from circuits.model.wiring import Wiring

SLACK = 1.5
"""Memory that a process takes for a byte of tensors, with what it keeps of freed memory.

It and `OWN_BYTES` were measured (docs/tasks/models.md)."""
OWN_BYTES = 32 * 2**20
"""Memory that a process takes for its first pass whatever its size."""
CONTRACTION_BYTES = 48 * 2**20
"""Upper bound of the buffers that hold sources and gradients in d_model space."""


@dataclass(frozen=True)
class Share:
    """How the pairs of one length are taken: rows a batch, and bytes of the contraction's buffers.

    With `recompute` blocks are run again for their gradients; with `split` an example's positions
    may be contracted one after the other.
    """

    rows: int
    recompute: bool = False
    buffer: int = CONTRACTION_BYTES
    split: bool = False


@dataclass(frozen=True)
class Contraction:
    """Bytes that the contraction takes: a position in its buffers, a pair's scores, and once."""

    position: int
    pair: int
    once: int

    @classmethod
    def of(cls, model: Model, wiring: Wiring, seen: int = 0, positions: int = 0) -> Contraction:
        """From the wiring; what was `seen` above it for one pair is needed once."""
        size = 8 if model.dtype.itemsize == 8 else 4
        position = (wiring.n_src + wiring.n_attn + 1) * model.d_model * size
        scores = 4 * wiring.n_spans * wiring.n_src * wiring.n_dst
        pair = scores + 2 * 4 * wiring.n_edges  # as a matrix, then as edges, then their average
        return cls(position, pair, max(0, seen - positions * position - scores))


Watch = Callable[[int, int, int, bool], Footprint]
"""The passes on (rows, positions, prefix), with recomputing or without."""
Kind = tuple[object, ...]
_known: WeakKeyDictionary[Model, dict[Kind, Growth]] = WeakKeyDictionary()
"""What was seen of each model: what passes hold does not change with its weights."""


def growth(
    model: Model, kind: Kind, watch: Callable[[int, int, int], Footprint], prefixed: bool
) -> Growth:
    """What passes of a kind hold, watched on short prompts once for each model."""
    known, name = _known.setdefault(model, {}), (*kind, prefixed)
    if name not in known:
        known[name] = Growth.of(watch, prefixed)
    return known[name]


def short_batch(model: Model, pair: TokenPair, rows: int, positions: int, prefix: int) -> PairBatch:
    """A pair so many times, of so many positions after those that both prompts have in common."""
    (found,) = batches([pair], 1, model)
    wide = -(-(prefix + positions) // found.clean.shape[1])

    def tokens(given: Tensor) -> Tensor:
        return given.repeat(rows, wide)[:, : prefix + positions]

    def repeated(given: Tensor) -> Tensor:
        return given.repeat(rows, *[1] * (given.ndim - 1))

    return replace(
        found,
        index=(0,) * rows,
        clean=tokens(found.clean),
        corrupted=tokens(found.corrupted),
        first_difference=prefix,
        **{name: repeated(getattr(found, name)) for name in _ANSWERS},
    )


_ANSWERS = "answer", "foil", "wanted", "unwanted"


def lengths(pairs: Sequence[TokenPair], sharing: bool) -> dict[int, tuple[int, int]]:
    """Of every length of prompts the positions that are run, and those before them.

    With `sharing` what the prompts have in common is run once.
    """
    first: dict[int, int] = {}
    for pair in pairs:
        length = len(pair.clean)
        first[length] = min(pair.first_difference * sharing, first.get(length, length))
    return {length: (length - start, start) for length, start in first.items()}


@dataclass(frozen=True, eq=False)
class Room:
    """A bound in bytes, of which results take `held`, and what one batch takes of the rest.

    Passes of a `kind` hold the same; beside what `watch` sees, `added` bytes a position.
    """

    model: Model
    kind: Kind
    bound: int
    held: int
    watch: Watch
    contraction: Contraction
    added: int = 0

    def shares(self, pairs: Sequence[TokenPair], most: int, sharing: bool) -> dict[int, Share]:
        """How pairs of each length are taken, at most so many rows a batch.

        With `sharing` what the prompts have in common is run once. OptionError names the least
        that would do.
        """
        sizes = lengths(pairs, sharing)
        found = {length: self._share(most, *size) for length, size in sizes.items()}
        shares = {length: share for length, share in found.items() if share is not None}
        if len(shares) < len(found):
            least = {
                length: min(self._least(1, *size, again) for again in (False, True))
                for length, size in sizes.items()
            }
            length = max(least, key=lambda each: least[each])
            raise OptionError(
                f"`memory` {shown(self.bound)} holds no pair of {length} tokens beside the model; "
                f"{shown(least[length], up=True)} would do"
            )
        return shares

    def _share(self, most: int, positions: int, prefix: int) -> Share | None:
        for recompute in (False, True):
            for rows in range(most, 0, -1):
                if self._least(rows, positions, prefix, recompute) <= self.bound:
                    at_end = self._at_end(rows, positions, prefix, recompute)
                    left = int((self.bound - self.held - OWN_BYTES) / SLACK - at_end)
                    return Share(rows, recompute, min(left, CONTRACTION_BYTES), split=True)
        return None

    def _least(self, rows: int, positions: int, prefix: int, recompute: bool) -> float:
        """Bytes below which so many rows do not run."""
        passes = self._held(rows, positions, prefix, recompute)[0]
        contracting = self._at_end(rows, positions, prefix, recompute) + self.contraction.position
        return SLACK * max(passes, contracting) + self.held + OWN_BYTES

    def _at_end(self, rows: int, positions: int, prefix: int, recompute: bool) -> float:
        """Bytes beside the contraction's buffers."""
        kept = self._held(rows, positions, prefix, recompute)[1]
        return kept + rows * self.contraction.pair + self.contraction.once

    def _held(self, rows: int, positions: int, prefix: int, recompute: bool) -> tuple[float, float]:
        """Bytes at the worst moment of the passes, and after them."""
        kind = *self.kind, recompute

        def watch(rows: int, positions: int, prefix: int) -> Footprint:
            return self.watch(rows, positions, prefix, recompute)

        grown = growth(self.model, kind, watch, prefix > 0)
        seen, added = grown.moments(rows, positions, prefix), rows * positions * self.added
        return float(seen.max()) + added, float(seen[-1]) + added
