"""Gradients at the memory of one block: what a block keeps for the backward pass is made again.

Between blocks only the residual stream stays (Chen et al. 2016, "Training Deep Nets with Sublinear
Memory Cost", with one segment a block); the price is one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Self

from torch.utils.checkpoint import checkpoint

_RECOMPUTES: ContextVar[bool] = ContextVar("recomputes", default=False)


def is_recomputing() -> bool:
    """Whether this is within a block in which layers run once more for their gradients."""
    return _RECOMPUTES.get()


class Recomputing:
    """Blocks of a model that run once more when their gradients are asked for; `again` tells."""

    def __init__(self) -> None:
        self.again = False
        self._caches: list[tuple[Any, dict[str, Any]]] = []

    @contextmanager
    def of(self, blocks: Iterable[Any]) -> Iterator[Self]:
        """Within the `with` block, forward passes keep no more than what enters each block.

        Their gradients are to be asked for in it, with the same hooks in place; a hook that saves
        what it sees looks at `again`. The blocks are as before after it.
        """
        blocks = list(blocks)
        before = _RECOMPUTES.set(_RECOMPUTES.get() or bool(blocks))
        for layer, block in enumerate(blocks):
            # Written past the bridge, which would hand the attribute on to what it wraps.
            vars(block)["forward"] = partial(self._run, layer, block.forward)
        try:
            yield self
        finally:
            _RECOMPUTES.reset(before)
            for block in blocks:
                vars(block).pop("forward", None)
            # The graph holds what enters a block, and so the cache, whose keys hold the graph.
            for cache, state in self._caches:
                vars(cache).update(state)

    def _run(self, layer: int, forward: Callable[..., Any], *given: Any, **options: Any) -> Any:
        from transformers.cache_utils import Cache

        caches = [each for each in (*given, *options.values()) if isinstance(each, Cache)]
        before = [(each.layers[layer], vars(each.layers[layer]).copy()) for each in caches]
        self._caches += before
        runs = 0

        def block(*given: Any, **options: Any) -> Any:
            nonlocal runs
            self.again, runs = runs > 0, runs + 1
            for kept, state in before:  # the first run has added its own positions to the prefix's
                vars(kept).update(state)
            try:
                return forward(*given, **options)
            finally:
                self.again = False

        return checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False, **options)
