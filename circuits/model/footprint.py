"""How many bytes of tensors a computation holds, operation by operation, and at other sizes.

A pass does the same operations whatever the length of its prompts, and each tensor's size is a
polynomial in that length: of degree one, or two where it pairs positions. So a few passes on
short prompts tell what every moment of a long one holds, without running it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import numpy as np
import torch
from jaxtyping import Float
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PLAIN = ((3, 0), (4, 0), (5, 0))
PREFIXED = ((3, 2), (4, 2), (5, 2), (3, 3), (4, 3), (3, 4))
"""Positions run, and positions before them that were run already: as many as there are terms."""


class Footprint(TorchDispatchMode):
    """Bytes of the tensors that were made within the block: after each operation, and at its end.

    What a kernel needs for itself and gives back before it ends is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.moments: list[int] = []
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        made = [each for each in _storages(result) if each._cdata not in self._known]
        if made:
            given = {storage._cdata for storage in _storages((args, kwargs))}
            for storage in made:
                name, size = storage._cdata, storage.nbytes()
                if name not in given and name not in self._known:  # else it is a view
                    self._known[name] = size
                    self.live += size
                    finalize(storage, self._forget, name)
        self.moments.append(self.live)
        return result

    def _forget(self, name: int) -> None:
        self.live -= self._known.pop(name)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.moments.append(self.live)  # nothing is done where things are only let go of

    @property
    def peak(self) -> int:
        """The most at any moment."""
        return max(self.moments, default=0)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    if isinstance(values, torch.Tensor):
        return [values.untyped_storage()]
    return [
        each.untyped_storage() for each in tree_leaves(values) if isinstance(each, torch.Tensor)
    ]


@dataclass(frozen=True, eq=False)
class Growth:
    """Bytes at every moment of a computation on `rows` prompts, whatever their length.

    `terms` are the factors of the terms of `_terms`, for one prompt; `fixed` is what any number of
    prompts needs once.
    """

    terms: Float[np.ndarray, "term moment"]
    fixed: Float[np.ndarray, " moment"]

    @classmethod
    def of(cls, run: Callable[[int, int, int], Footprint], prefixed: bool) -> Growth:
        """From `run(rows, positions, prefix)` on short prompts.

        Where passes differ in their operations, as experts are chosen by what prompts say, there
        is one moment: the peak.
        """
        sizes = PREFIXED if prefixed else PLAIN
        seen = [run(2, *size).moments for size in sizes]  # one row takes ways of its own
        more = run(3, *sizes[0]).moments
        if len({len(each) for each in [*seen, more]}) > 1:
            seen, more = [[max(each)] for each in seen], [max(seen[0]) * 3 // 2]
        values = np.array(seen, dtype=np.float64)
        fixed = np.maximum(3 * values[0] - 2 * np.array(more, dtype=np.float64), 0)
        table = np.array([_terms(*size, prefixed) for size in sizes])
        return cls(np.linalg.solve(table, (values - fixed) / 2), fixed)

    def moments(self, rows: int, positions: int, prefix: int = 0) -> Float[np.ndarray, " moment"]:
        """Bytes at every moment, with so many prompts."""
        terms = np.array(_terms(positions, prefix, len(self.terms) == len(PREFIXED)))
        return self.fixed + rows * (terms @ self.terms)


def _terms(positions: int, prefix: int, prefixed: bool) -> Sequence[float]:
    own = [1.0, positions, positions**2]
    return [*own, prefix, prefix * positions, prefix**2] if prefixed else own
