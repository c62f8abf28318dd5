"""What an edit did to a circuit, as a value: the comparison, the objects layer by layer, the heads.

`locate.changes.rewiring` makes it. Every table and figure can be made again from what is stored.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuits.base.arrays import ContentError, Layout
from circuits.base.display import Summary, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric, prefixed, texts, within
from circuits.graph.comparison import Comparison
from locate.changes.restored import Restoration
from locate.heads.head_change import HeadChange

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABELS = ("old", "new")
SIDES = ("before", "after")
OBJECTS = ("old object", "new object")
ANY_OBJECTS = ("answer", "foil")
"""What `LABELS` stand for where pairs ask about a relation, and not for what was edited."""
_COMPARISON, _FOLLOWED = "comparison.", "followed."
_RESTORATIONS = ("restoration", "elsewhere")


@dataclass(frozen=True, eq=False)
class FollowedObjects:
    """Rank (0: no token is above) and probability of the old and the new object, layer by layer.

    Axes: model before and after; distinct clean prompt; state (0 is the embedding, l + 1 the
    residual stream after layer l); place; `LABELS`.
    """

    prompts: tuple[str, ...]
    places: tuple[str, ...]
    rank: Int[np.ndarray, "side prompt state place label"]
    probability: Float[np.ndarray, "side prompt state place label"]

    def rows(self) -> list[dict[str, Any]]:
        """One record a model, place, layer and object: median rank, mean probability.

        Layer -1 is the embedding, rank 1 the top.
        """
        rank, probability = np.median(self.rank, 1), self.probability.mean(1)
        return [
            {
                "model": model,
                "position": place,
                "layer": state - 1,
                "object": label,
                "median_rank": float(rank[side, state, column, entry]) + 1,
                "mean_probability": float(probability[side, state, column, entry]),
            }
            for side, model in enumerate(SIDES)
            for column, place in enumerate(self.places)
            for state in range(rank.shape[1])
            for entry, label in enumerate(LABELS)
        ]


@dataclass(frozen=True, eq=False)
class Rewiring(Result):
    """Everything about one edit's effect on the circuit behind the pairs.

    `written` holds what each source of the wiring adds to the logit of the old object over that of
    the new one, directly, before and after, averaged over the clean prompts. Scores of edges
    before the edited weights change too, as what they feed is read otherwise; `written` changes
    only where something else is written. `logit_differences` are the whole model's. `restoration`
    is None where it was not asked for, `elsewhere` the same on prompts that chose no edge, where
    there were any. `provenance` names the model, the edit and the settings.
    """

    KIND = "rewiring"

    comparison: Comparison
    followed: FollowedObjects
    written: Float[np.ndarray, "side src"]
    logit_differences: tuple[float, float]
    heads: tuple[HeadChange, ...]
    restoration: Restoration | None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: Restoration | None = None

    @property
    def objects(self) -> tuple[str, str]:
        """What the pairs' answer and foil are: the old and new object, or `ANY_OBJECTS`."""
        first, second = self.provenance.get("objects", OBJECTS)
        return str(first), str(second)

    @property
    def asks_otherwise(self) -> bool:
        """Whether the pairs ask about a relation, and not for what was edited."""
        return self.objects != OBJECTS

    @property
    def switched(self) -> tuple[HeadChange, ...]:
        """The heads shown that spoke for the old object before and for the new one after."""
        return tuple(head for head in self.heads if head.switched)

    def switched_of(self, sources: Container[str]) -> float | None:
        """The share of these sources that now says the new object, of those that said the old one.

        None where none did.
        """
        names = self.comparison.before.wiring.src_names
        spoke = [at for at, name in enumerate(names) if name in sources and self.written[0, at] > 0]
        return float((self.written[1, spoke] < 0).mean()) if spoke else None

    @property
    def swing(self) -> float:
        """By how many logits the model's answer moved from the old towards the new object."""
        return self.logit_differences[0] - self.logit_differences[1]

    def summary(self) -> Summary:
        """The comparison's counts, the causal check, and the heads that changed most."""
        facts = dict(self.comparison.summary().facts)
        old, new = self.logit_differences
        first, second = self.objects
        facts[f"{first} minus {second}"] = f"{old:.2f} logits before, {new:.2f} after"
        if self.restoration is not None:
            share = self.restoration.recovered
            undone = f"{share:.0%}" if np.isfinite(share) else "an undefined part"
            facts["old values back"] = (
                f"on the {self.restoration.n_edges} edges called changed, undo {undone} of the "
                "edit on the pairs that found them"
            )
        rows = [
            (
                head.name,
                head.role,
                f"{head.swing:+.2f}",
                *(" ".join(map(token_name, words)) for words in head.written),
            )
            for head in self.heads
        ]
        return Summary(
            "What an edit did to a circuit",
            facts,
            f"logits that a head's words moved from the {first} to the {second}",
            ("head", "role", "swing", "writes before", "writes after"),
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """Rank and probability of both objects by layer, as `viz.screen.followed_figure` draws.

        `comparison.plot()` draws the circuit.
        """
        return plotted(self, **options)

    def rows(self) -> list[dict[str, Any]]:
        """The comparison's."""
        return self.comparison.rows()

    def arrays(self) -> dict[str, np.ndarray]:
        """The comparison's, the objects' ranks, what is written, the prompts of the check."""
        arrays = prefixed(self.comparison.arrays(), _COMPARISON)
        arrays |= {
            f"{_FOLLOWED}rank": self.followed.rank,
            f"{_FOLLOWED}probability": self.followed.probability,
            "written": self.written,
        }
        for name, restored in self._restorations().items():
            arrays |= prefixed(restored.arrays(), f"{name}.")
        return arrays

    def _restorations(self) -> dict[str, Restoration]:
        """Those that there are, by their fields."""
        found = {name: getattr(self, name) for name in _RESTORATIONS}
        return {name: each for name, each in found.items() if each is not None}

    def metadata(self) -> dict[str, Any]:
        """What describes all parts, from which every table and figure can be made again."""
        found: dict[str, Any] = {
            "comparison": self.comparison.metadata(),
            "followed": {"prompts": self.followed.prompts, "places": self.followed.places},
            "heads": [head.record() for head in self.heads],
            "logit_differences": self.logit_differences,
            "provenance": self.provenance,
        }
        for name, restored in self._restorations().items():
            found[name] = {"n_edges": restored.n_edges}
        return found

    @classmethod
    def check_header(cls, layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
        """The comparison as comparisons are checked."""
        about = metadata.get("comparison")
        if not isinstance(about, dict):
            raise ContentError("lacks the comparison of a rewiring")
        Comparison.check_header(within(layouts, _COMPARISON), about)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Rewiring:
        """The inverse of `arrays` and `metadata`; OptionError where shapes do not fit."""
        comparison = Comparison.from_arrays(within(arrays, _COMPARISON), metadata["comparison"])
        followed = FollowedObjects(
            prompts=texts(metadata["followed"]["prompts"]),
            places=texts(metadata["followed"]["places"]),
            rank=numeric(arrays, f"{_FOLLOWED}rank", "if", 5),
            probability=numeric(arrays, f"{_FOLLOWED}probability", "f", 5),
        )
        written = numeric(arrays, "written", "f", 2)
        shape, n_prompts, n_places = (
            followed.rank.shape,
            len(followed.prompts),
            len(followed.places),
        )
        if (
            shape != followed.probability.shape
            or shape != (2, n_prompts, shape[2], n_places, 2)
            or not all(shape)
            or written.shape != (2, comparison.before.wiring.n_src)
        ):
            raise OptionError("the shapes do not fit")
        restored = {
            name: Restoration.from_arrays(
                within(arrays, f"{name}."), int(metadata[name]["n_edges"])
            )
            for name in _RESTORATIONS
            if name in metadata
        }
        before, after = map(float, metadata["logit_differences"])
        return cls(
            comparison=comparison,
            followed=followed,
            written=written,
            logit_differences=(before, after),
            heads=tuple(HeadChange.from_record(record) for record in metadata["heads"]),
            restoration=restored.get("restoration"),
            elsewhere=restored.get("elsewhere"),
            provenance=dict(metadata["provenance"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "comparison": self.comparison.as_dict(),
            "layers": self.followed.rows(),
            "written": [
                {"source": name, "before": before, "after": after}
                for name, before, after in zip(
                    self.comparison.before.wiring.src_names, *self.written.tolist(), strict=True
                )
            ],
            "old_minus_new": list(self.logit_differences),
            "heads": [head.as_row() for head in self.heads],
            **{
                name: None if (each := getattr(self, name)) is None else each.as_dict()
                for name in _RESTORATIONS
            },
            "provenance": dict(self.provenance),
        }
