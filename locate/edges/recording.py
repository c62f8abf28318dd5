"""What attribution keeps of runs: clean minus corrupted values, and gradients at points of a run.

Edges (`locate.edges.passes`) and neurons (`locate.neurons.scoring`) say which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.model import taps as points
from circuits.model.model import Hook, Model, Prefix
from circuits.model.recomputing import Recomputing
from circuits.model.tensors import at_least_fp32
from locate.edges.rules import PLAIN, BackwardRules


class Differences:
    """Values of one run minus those of another, by key."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.values: dict[str, Tensor] = {}

    def hooks(self, sign: int) -> list[Hook]:
        """Hooks that add (sign 1) or subtract (sign -1) this run's values."""
        raise NotImplementedError

    def add(self, key: str, value: Tensor, sign: int) -> None:
        """Add a value, or subtract it."""
        value = value.detach()
        if key in self.values:
            self.values[key].add_(value, alpha=sign)
        else:
            self.values[key] = value.clone() if sign > 0 else value.neg()


class Gradients:
    """Gradients of the metric at the points `also` (`others`), summed over runs.

    `rules` may put others in the place of some derivatives. With `recompute` a run holds what one
    block needs for its gradients, and takes a forward pass more.
    """

    def __init__(
        self,
        model: Model,
        rules: BackwardRules = PLAIN,
        also: Sequence[str] = (),
        recompute: bool = False,
    ) -> None:
        self.model, self.rules, self.also = model, rules, tuple(also)
        self.recompute = recompute
        self.others: dict[str, Tensor] = {}
        self.n_runs = 0

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        metric: Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]],
        embedding: Float[Tensor, "batch pos d_model"] | None = None,
        prefix: Prefix | None = None,
        extra_hooks: list[Hook] | None = None,
        changes: Sequence[Hook] = (),
        ends: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch d_vocab"]:
        """One forward and one backward pass; returns the logits.

        `embedding` replaces the token embeddings (a point on an integration path). Extra hooks
        read; those of `changes` may keep the gradient from points, which is then 0 there. `ends` as
        of `Model.last_logits`.
        """
        taps: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}
        recomputing = Recomputing()

        def start(value: Tensor, hook: object) -> Tensor:
            point = value if embedding is None else embedding
            return point.detach().requires_grad_(True)

        def tap(name: str) -> Hook:
            def keep(value: Tensor, hook: object) -> Tensor:
                # The hook may see a view, or what others read too; returning a view of it puts one
                # on the graph that only this reader's gradient reaches.
                view = value.view_as(value)
                return view if recomputing.again else taps.setdefault(name, view)

            return name, keep

        def look(name: str) -> Hook:
            return once(name, lambda value, hook: seen.__setitem__(name, value.detach()))

        def once(name: str, read: Callable[..., None]) -> Hook:
            def reads(value: Tensor, hook: object) -> None:
                if not recomputing.again:
                    with torch.no_grad():
                        read(value, hook)

            return name, reads

        hooks: list[Hook] = [(points.EMBEDDING, start)]
        hooks += [tap(name) for name in (*self.tapped(), *self.also)]
        hooks += [look(name) for name in self.looked_at()]
        hooks += self.rules.hooks(self.model)
        hooks += [*changes, *(once(*hook) for hook in extra_hooks or ())]
        blocks = self.model.bridge.blocks if self.recompute else ()
        with torch.enable_grad(), recomputing.of(blocks), self.model.hooks(hooks):
            total = metric(logits := self.model.last_logits(tokens, (), prefix, ends)).sum()
            cuts = bool(changes) or self.rules.cuts or self.model.patching.cuts
            read = list(taps.values())
            found = torch.autograd.grad(total, read, materialize_grads=cuts)
            grads = dict(zip(taps, found, strict=True))
        for name in self.also:
            self.others[name] = accumulate(self.others.get(name), grads[name])
        self.keep(taps, grads, seen, prefix.length if prefix else 0)
        self.n_runs += 1
        return logits.detach()

    def tapped(self) -> list[str]:
        """Points whose gradients `keep` takes."""
        return []

    def looked_at(self) -> list[str]:
        """Points whose values `keep` takes."""
        return []

    def keep(
        self,
        taps: dict[str, Tensor],
        grads: dict[str, Tensor],
        seen: dict[str, Tensor],
        start: int,
    ) -> None:
        """Take what a run leaves, whose positions begin at `start`: by default nothing more."""


def accumulate(total: Tensor | None, value: Tensor) -> Tensor:
    """Running sum, in fp32 at least so that bf16 steps do not lose digits."""
    if total is None:
        return at_least_fp32(value)
    return total.add_(value)
