"""Patches: what parts of a model write is set or added to, for as long as a `with` block lasts.

A patch is part of the model while it is there: it comes before whatever else reads or changes a
run, so that a patched model is a model like any other, and every method runs on it. Within a run a
patch is a hook. What computes parts of a run anew (circuits, exact patching, traces) does as the
hooks do through `Patching`, which knows at which position the values that it is given begin.

A direction that is added to the residual stream after a layer is written by the layer's MLP, which
comes to the same stream: so every method that takes the stream apart into what heads and MLPs
write still accounts for all of it. A stream that is overwritten cannot be taken apart; who tries
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.model import taps
from circuits.model.tensors import weights_hash

if TYPE_CHECKING:
    from circuits.model.model import Hook, Model

LAST = -1
"""The last token of whatever is run."""


class Kind(Enum):
    """What is patched: a head before its output matrix, an MLP, the residual stream."""

    HEAD = "head"
    MLP = "mlp"
    RESID = "resid"


@dataclass(frozen=True)
class Part:
    """A place where a run can be read and patched; its name is `a5.h1`, `m3` or `resid3`.

    `resid3` is the residual stream after layer 3, `a5.h1` what the head reads, before its output
    matrix.
    """

    name: str
    kind: Kind
    layer: int
    head: int = 0

    @classmethod
    def of(cls, model: Model, name: str) -> Part:
        """The part of this name; OptionError where the model has none."""
        found = re.fullmatch(r"(?:a(\d+)\.h(\d+)|m(\d+)|resid(\d+))", str(name))
        if found is not None:
            layer, head, mlp, resid = (None if g is None else int(g) for g in found.groups())
            kind = Kind.HEAD if layer is not None else Kind.MLP if mlp is not None else Kind.RESID
            at = next(each for each in (layer, mlp, resid) if each is not None)
            if at < model.n_layers and (head or 0) < model.n_heads:
                return cls(str(name), kind, at, head or 0)
        raise OptionError(
            f"{name!r:.60} is no part of {model.name!r} ({model.wiring().describe()}); parts are "
            "named as a5.h1 (a head), m3 (an MLP) or resid3 (the residual stream after layer 3)"
        )

    def width(self, model: Model) -> int:
        """How many numbers it writes at a position."""
        return model.d_head if self.kind == Kind.HEAD else model.d_model

    def tap(self, model: Model) -> str:
        """The hook where it is read and patched."""
        if self.kind == Kind.HEAD:
            return taps.head_outputs(self.layer)
        return model.taps.mlp_out(self.layer) if self.kind == Kind.MLP else self.residual

    @property
    def residual(self) -> str:
        """The residual stream after its layer."""
        return taps.resid_post(self.layer)

    def read(self, model: Model, value: Tensor) -> Float[Tensor, "batch pos width"]:
        """Its own share of what stands at its tap."""
        if self.kind != Kind.HEAD:
            return value
        return value.reshape(*value.shape[:2], -1, model.d_head)[:, :, self.head]


@dataclass(frozen=True, eq=False)
class Patch:
    """One part's change: `value` is set, or added, at the positions `at` (None: at all).

    `value` has one row a position of `at`, or is one row for all. Positions count from the prompt's
    beginning, BOS included; `(LAST,)` is the last token of every prompt.
    """

    part: Part
    value: Float[Tensor, "*places width"]
    at: tuple[int, ...] | None = None
    adds: bool = False

    @property
    def kind(self) -> Kind:
        """Where it acts: a direction added to the residual stream is written by the MLP."""
        return Kind.MLP if self.adds and self.part.kind == Kind.RESID else self.part.kind

    def tap(self, model: Model) -> str:
        """The hook where it acts."""
        mlp = model.taps.mlp_out(self.part.layer)
        return mlp if self.kind == Kind.MLP else self.part.tap(model)

    def rows(self, length: int, start: int | None, ends: bool) -> tuple[list[int], list[int]]:
        """Which of `length` positions from `start` on change, and which of `at` each of them is."""
        if self.at is None:
            return list(range(length)), [0] * length
        if start is None:
            raise OptionError(
                f"{self.part.name} is patched at single positions, and what is asked runs parts of "
                "the model by themselves, out of their places; patch at all positions"
            )
        found = [
            (length - 1 if place == LAST else place - start, index)
            for index, place in enumerate(self.at)
            if place != LAST or ends
        ]
        inside = [(row, index) for row, index in found if 0 <= row < length]
        return [row for row, _ in inside], [index for _, index in inside]

    def changed(
        self, value: Float[Tensor, "*rest pos width"], start: int | None, ends: bool
    ) -> Float[Tensor, "*rest pos width"]:
        """What the part writes, patched; positions count from `start`."""
        rows, which = self.rows(value.shape[-2], start, ends)
        given = self.value.to(value.device, value.dtype)
        given = given[which] if given.ndim == 2 else given
        changed = value.clone()
        if rows:
            changed[..., rows, :] = changed[..., rows, :] + given if self.adds else given
        return changed

    def told(self) -> str:
        """What it does, in words."""
        size = float(self.value.float().norm())
        where = "" if self.at is None else f" at {_told_places(self.at)}"
        if self.adds:
            return f"{self.part.name} plus a vector of norm {size:.4g}{where}"
        what = f"a value of norm {size:.4g}" if size else "zero"
        return f"{self.part.name} is {what}{where}"

    def mark(self) -> str:
        """What tells it from every other patch: its part, way and places, and its value's hash."""
        place = (
            f"{self.part.name} {self.at} {self.adds} {self.value.dtype} {list(self.value.shape)}"
        )
        return f"{place} {weights_hash({'value': self.value})}"


class Patching:
    """The patches that are in a model now, and where the values begin that it is running."""

    def __init__(self) -> None:
        self.patches: tuple[Patch, ...] = ()
        self.start: int | None = None
        self.ends = True

    @contextmanager
    def positions(self, start: int | None, ends: bool = True) -> Iterator[None]:
        """Within the block values begin at the position `start` and, if `ends`, end the prompt."""
        before = self.start, self.ends
        self.start, self.ends = start, ends
        try:
            yield
        finally:
            self.start, self.ends = before

    def record(self) -> dict[str, Any]:
        """What a model's provenance says of them, with a hash; nothing where there are none."""
        if not self.patches:
            return {}
        digest = sha256("\n".join(each.mark() for each in self.patches).encode()).hexdigest()
        return {"patched": [each.told() for each in self.patches], "patched_sha256": digest}

    @property
    def cuts(self) -> bool:
        """Whether something is set, so that no gradient reaches what led to it."""
        return any(not patch.adds for patch in self.patches)

    def check_parts(self, name: str) -> None:
        """OptionError where the residual stream is not what heads and MLPs write."""
        over = [p.part.name for p in self.patches if p.kind == Kind.RESID]
        if over:
            raise OptionError(
                f"{over[0]} of {name!r} is overwritten, so the residual stream is not the sum of "
                "what heads and MLPs write, which is what is asked for; patch these, or add to the "
                "stream"
            )

    def check_free(self, name: str) -> None:
        """OptionError where the model is patched, for what changes its weights."""
        if self.patches:
            raise OptionError(
                f"{name!r} is patched ({self.patches[-1].told()}), and an edit is one of its "
                "weights; make the edit outside the block, and apply it within"
            )

    def of(self, kind: Kind, layer: int) -> list[Patch]:
        """The patches of one kind in a layer, in the order in which they act."""
        return [p for p in self.patches if p.kind == kind and p.part.layer == layer]

    def written(
        self, kind: Kind, layer: int, value: Float[Tensor, "*rest pos d_model"]
    ) -> Float[Tensor, "*rest pos d_model"]:
        """What an MLP or the residual stream holds, patched, where no hook sees it."""
        for patch in self.of(kind, layer):
            value = patch.changed(value, self.start, self.ends)
        return value

    def heads(
        self,
        layer: int,
        heads: Int[Tensor, "*some"],
        outputs: Float[Tensor, "*some batch pos d_head"],
        start: int,
    ) -> Float[Tensor, "*some batch pos d_head"]:
        """What these heads of a layer write before their output matrix, patched.

        Values begin at the position `start` and end the prompt.
        """
        for patch in self.of(Kind.HEAD, layer):
            chosen = heads == patch.part.head
            if bool(chosen.any()):
                outputs = outputs.clone()
                outputs[chosen] = patch.changed(outputs[chosen], start, True)
        return outputs

    def gradient(
        self, layer: int, gradient: Float[Tensor, "batch pos head d_head"], start: int
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The gradient at what heads write by themselves, from that at what is written."""
        for patch in self.of(Kind.HEAD, layer):
            rows, _ = patch.rows(gradient.shape[1], start, True)
            if rows and not patch.adds:
                gradient = gradient.clone()
                gradient[:, rows, patch.part.head] = 0
        return gradient

    def hook(self, model: Model, patch: Patch) -> Hook:
        """The hook that does it within a run."""

        def replace(value: Tensor, hook: Any) -> Tensor:
            if patch.kind != Kind.HEAD:
                return patch.changed(value, self.start, self.ends)
            changed = value.clone().reshape(*value.shape[:2], -1, model.d_head)
            own = changed[:, :, patch.part.head]
            changed[:, :, patch.part.head] = patch.changed(own, self.start, self.ends)
            return changed.reshape(value.shape)

        return patch.tap(model), replace


@contextmanager
def with_patches(model: Model, patches: Sequence[Patch]) -> Iterator[Model]:
    """The model with these patches; it is as before when the block ends, also after an exception.

    Blocks may be nested: what is inside acts after what is outside. Provenance says what is there.
    """
    state = model.patching
    with model.alone(), model.hooks([state.hook(model, patch) for patch in patches]):
        state.patches = (*state.patches, *patches)
        try:
            yield model
        finally:
            # Blocks of two generators may end in any order: each takes away its own.
            mine = {id(patch) for patch in patches}
            state.patches = tuple(patch for patch in state.patches if id(patch) not in mine)


@torch.no_grad()
def read_parts(
    model: Model, tokens: Int[Tensor, "batch pos"], parts: Sequence[Part]
) -> list[Float[Tensor, "batch pos width"]]:
    """What parts write at every position of a run."""
    seen: dict[int, Tensor] = {}

    def reader(index: int, part: Part) -> Hook:
        def keep(value: Tensor, hook: Any) -> None:
            seen[index] = part.read(model, value).clone()

        return part.tap(model), keep

    model.last_logits(tokens, [reader(index, part) for index, part in enumerate(parts)])
    return [seen[index] for index in range(len(parts))]


def _told_places(at: tuple[int, ...]) -> str:
    if at == (LAST,):
        return "the last token"
    if len(at) > 1 and at == tuple(range(at[0], at[-1] + 1)):
        return f"positions {at[0]} to {at[-1]}"
    return f"position{'s' * (len(at) > 1)} {', '.join(map(str, at))}"
