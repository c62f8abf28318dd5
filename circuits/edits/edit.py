"""An edit is a value: what was asked for, and the change of weights that answers it.

A `WeightDelta` holds one change a parameter, under Hugging Face's names and in its layout. It is
applied within a `with` block and taken back bit for bit; deltas add, subtract, scale and save.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.display import Summary, named
from circuits.base.errors import NumericalError, OptionError
from circuits.base.results import Result, numeric
from circuits.edits.provenance import JUDGED, made_for
from circuits.facts.facts import SLOT, Probe, fill, place_in
from circuits.model.model import Model


@dataclass(frozen=True)
class EditRequest:
    """Make the model continue `prompt` (one `{}`, for the subject) with `target`.

    Texts have no leading space. `ground_truth` is what it should have said before, `probes` the
    further prompts that the edit is judged by.
    """

    prompt: str
    subject: str
    target: str
    ground_truth: str | None = None
    relation: str | None = None
    probes: tuple[Probe, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt", "subject", "target"):
            if not isinstance(value := getattr(self, name), str):
                raise OptionError(f"`{name}` of an edit is a text, not {value!r:.40}")
        if self.prompt.count(SLOT) != 1:
            raise OptionError(
                f"the prompt of an edit holds {SLOT} once, in the subject's place: {self.prompt!r}"
            )
        for name in ("subject", "target"):
            if not getattr(self, name).strip():
                raise OptionError(f"the {name} of the edit of {self.prompt!r} is empty")

    @property
    def text(self) -> str:
        """The prompt with its subject."""
        return fill(self.prompt, self.subject)

    @property
    def place(self) -> int:
        """Which occurrence of the subject in the text is edited; 0: the one whole word."""
        return place_in(self.prompt, self.subject)


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change `left @ right` of a matrix."""

    left: Float[Tensor, "row rank"]
    right: Float[Tensor, "rank col"]

    @property
    def shape(self) -> torch.Size:
        """Shape of the matrix that changes."""
        return torch.Size((self.left.shape[0], self.right.shape[1]))

    @property
    def rank(self) -> int:
        """Number of terms; the true rank may be lower."""
        return self.left.shape[1]

    def dense(self) -> Float[Tensor, "row col"]:
        """The change as a matrix."""
        return self.left @ self.right


Change = LowRank | Tensor


class _Placed:
    """A delta that is in a model's weights, on top of those that were placed before it."""

    def __init__(self, delta: WeightDelta, model: Model) -> None:
        self.delta, self.model = delta, model

    def enter(self) -> None:
        model = self.model
        _ = model.provenance  # hashes the weights again where they were written to
        # The very object, by which the edit below knows that this one left nothing behind.
        self.provenance = model.origin
        self.before = {name: model.parameter(name).clone() for name in self.delta.changes}
        model.placed.append(self)
        for name, weight in self.before.items():
            change = self.delta.dense(name).to(weight.device)
            wide = torch.promote_types(weight.dtype, change.dtype)
            model.set_parameter(name, (weight.to(wide) + change.to(wide)).to(weight.dtype))
        marks = {"edits": [self.delta.fingerprint()]}
        if "made_for" in self.delta.provenance:
            marks["edits_of_other_weights"] = marks["edits"]
        earlier = {name: self.provenance.get(name, []) for name in marks}
        added = {name: [*earlier[name], *mark] for name, mark in marks.items()}
        model.provenance = self.marked = {**self.provenance, **added}

    def leave(self) -> None:
        """Take it back; those placed after it are lifted first and then placed again."""
        stack = self.model.placed
        if self not in stack:
            return
        later = stack[stack.index(self) + 1 :]
        for each in (*reversed(later), self):
            each._lift()
        for each in later:
            each.enter()

    def _lift(self) -> None:
        model = self.model
        # Whether a weight was changed by hand inside the block: torch counts the changes.
        touched = model.is_changed or model.origin is not getattr(self, "marked", None)
        for name, weight in self.before.items():
            model.set_parameter(name, weight)
        model.placed.remove(self)
        model.provenance = self.provenance
        if touched:
            model.forget_hash()


@dataclass(frozen=True, eq=False)
class WeightDelta(Result):
    """Changes of weights by parameter name, with their origin."""

    KIND = "weight-delta"

    changes: Mapping[str, Change]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", dict(self.changes))
        object.__setattr__(self, "provenance", dict(self.provenance))

    def dense(self, name: str) -> Tensor:
        """One parameter's change as it is added to the weight."""
        change = self.changes[name]
        return change.dense() if isinstance(change, LowRank) else change

    def norm(self) -> float:
        """Frobenius norm over all parameters."""
        squares = [float(self.dense(name).double().square().sum()) for name in self.changes]
        return float(np.sqrt(sum(squares)))

    @property
    def is_finite(self) -> bool:
        """False where any number of the change is NaN or infinite."""
        parts = [part for change in self.changes.values() for part in _parts(change).values()]
        return all(bool(torch.isfinite(part).all()) for part in parts)

    def summary(self) -> Summary:
        """Method, norm, and each parameter that changes."""
        rows = []
        for name, change in self.changes.items():
            rank = str(change.rank) if isinstance(change, LowRank) else "full"
            shape = " × ".join(map(str, change.shape))
            rows.append((name, shape, rank, f"{float(self.dense(name).double().norm()):.4g}"))
        return Summary(
            f"Change of {len(rows)} parameter{'s' * (len(rows) != 1)}",
            {**named(self.provenance, "model", "method"), "norm": f"{self.norm():.4g}"},
            "",
            ("parameter", "shape", "rank", "norm"),
            rows,
        )

    def fingerprint(self) -> str:
        """sha256 of the changes."""
        digest = sha256()
        for name, array in sorted(self.arrays().items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()

    @contextmanager
    def applied(self, model: Model, allow_mismatch: bool = False) -> Iterator[Model]:
        """The model with the change; its weights are back bit for bit when the block ends.

        Also after an exception. Deltas may be nested. What `fitted_to` refuses is refused; then
        nothing was touched.
        """
        fitted = self.fitted_to(model, allow_mismatch)
        with model.alone():
            placed = _Placed(fitted, model)
            try:
                placed.enter()
                yield model
            finally:
                placed.leave()

    def fitted_to(self, model: Model, allow_mismatch: bool = False) -> WeightDelta:
        """The change, where it can be applied to the model.

        NumericalError for a change that is not finite, OptionError for one of another shape or made
        for other weights. `allow_mismatch` lets the last pass: what is returned then says so in
        its provenance, under `made_for`. Edits that are in the model's weights for the moment do
        not count, and a change that does not say what it was made for fits.
        """
        if not self.is_finite:
            raise NumericalError("the edit holds numbers that are not finite; it is not applied")
        for name in self.changes:
            if model.shape(name) != self._shape(name):
                raise OptionError(
                    f"the edit does not fit {model.name!r}: {name!r} differs in shape"
                )
        known = made_for(self.provenance)
        if not known:
            return self
        bare = model.placed[0].provenance if model.placed else model.provenance
        own = str(bare["weights_sha256"])
        if known == {own}:
            return self
        if not allow_mismatch:
            raise OptionError(
                f"the edit was made for other weights than those of {model.name!r} in "
                f"{bare.get('dtype', '?')}; `allow_mismatch` applies it all the same"
            )
        marks = {"weights_sha256": own, "made_for": sorted(known)}
        return WeightDelta(self.changes, {**self.provenance, **marks})

    def judged(self, record: Mapping[str, Any]) -> WeightDelta:
        """The same change, whose file says how it fared (plain JSON values)."""
        return WeightDelta(self.changes, {**self.provenance, JUDGED: dict(record)})

    def __add__(self, other: WeightDelta) -> WeightDelta:
        """Both changes together; the provenance names both."""
        changes = dict(self.changes)
        for name, change in other.changes.items():
            changes[name] = _add(changes[name], change) if name in changes else change
        return WeightDelta(changes, {"sum": [self.provenance, other.provenance]})

    def __mul__(self, factor: float) -> WeightDelta:
        """The change scaled by a number."""
        changes: dict[str, Change] = {
            name: LowRank(change.left * factor, change.right)
            if isinstance(change, LowRank)
            else change * factor
            for name, change in self.changes.items()
        }
        return WeightDelta(changes, {"scaled": self.provenance, "factor": factor})

    __rmul__ = __mul__

    def __neg__(self) -> WeightDelta:
        return self * -1.0

    def __sub__(self, other: WeightDelta) -> WeightDelta:
        return self + (-other)

    def __repr__(self) -> str:
        method = self.provenance.get("method", "?")
        return f"WeightDelta({method}, {len(self.changes)} parameters, norm {self.norm():.3g})"

    def rows(self) -> list[dict[str, Any]]:
        """One record a parameter: shape, rank (None: full) and norm."""
        return [
            {
                "parameter": name,
                "shape": " × ".join(map(str, change.shape)),
                "rank": change.rank if isinstance(change, LowRank) else None,
                "norm": float(self.dense(name).double().norm()),
            }
            for name, change in self.changes.items()
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """The changes in single precision: `name|dense`, or `name|left` and `name|right`."""
        return {
            f"{name}|{part}": tensor.detach().float().cpu().numpy()
            for name, change in self.changes.items()
            for part, tensor in _parts(change).items()
        }

    def metadata(self) -> dict[str, Any]:
        """Where it comes from."""
        return {"provenance": self.provenance}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> WeightDelta:
        """The inverse of `arrays` and `metadata`; OptionError for parts that do not fit."""
        changes: dict[str, Change] = {}
        for key, array in arrays.items():
            name, _, part = key.rpartition("|")
            if part == "dense":
                changes[name] = torch.from_numpy(array.copy())
            elif part == "left" and f"{name}|right" in arrays:
                pair = [numeric(arrays, f"{name}|{side}", "f", 2) for side in ("left", "right")]
                if pair[0].shape[1] != pair[1].shape[0]:
                    raise OptionError(f"the parts of {name!r:.60} do not fit")
                changes[name] = LowRank(*(torch.from_numpy(each.copy()) for each in pair))
            elif part != "right":
                raise OptionError(f"holds an unknown part {key!r:.60}")
        return cls(changes, dict(metadata.get("provenance", {})))

    def _shape(self, name: str) -> torch.Size:
        return self.changes[name].shape


def _parts(change: Change) -> dict[str, Tensor]:
    if isinstance(change, LowRank):
        return {"left": change.left, "right": change.right}
    return {"dense": change}


def _add(left: Change, right: Change) -> Change:
    if isinstance(left, LowRank) and isinstance(right, LowRank):
        return LowRank(
            torch.cat([left.left, right.left], 1), torch.cat([left.right, right.right], 0)
        )
    dense = [part.dense() if isinstance(part, LowRank) else part for part in (left, right)]
    return dense[0] + dense[1]
