"""What an edit did to the circuit: the comparison, the heads, the layers, and a causal check.

1. Attribute the pairs in the unedited and in the edited model, once each; select both circuits and
   hold every edge's change against the noise floor (`circuits.graph.compare`).
2. Follow the old and the new object through the layers of both models (logit lens).
3. Look at the heads whose edges moved most and at those whose own words changed most: where they
   look, what they write, before and after.
4. Put the old values back on the edges called changed, and on as many random ones
   (`locate.changes.restoration`).

The pairs decide what is asked: `circuits.edits.effects.pairs` makes those that ask for an edited
fact; the pairs of a whole relation ask what the edit did to its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from circuits.base.arrays import ContentError, Layout
from circuits.base.display import Summary, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result
from circuits.edits.edit import WeightDelta
from circuits.facts.pairs import TokenPair, batches
from circuits.graph.circuit import Circuit, EdgeScores
from circuits.graph.compare import Comparison, compare_scores
from circuits.graph.noise import Decision, NoiseSettings, Sample
from circuits.model.holding import alone
from circuits.model.metrics import logit_difference
from circuits.model.model import Model
from locate.changes.restoration import Draw, Restoration, restore_edges
from locate.edges.score import pair_scores
from locate.heads.head_changes import HeadChange, HeadViews, head_changes, view_heads
from locate.search import Scoring
from locate.states.attribution import direct_logit_attribution
from locate.states.lens import lens_positions, logit_lens

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABELS = ("old", "new")
SIDES = ("before", "after")


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
    is None where it was not asked for. `provenance` names the model, the edit and the settings.
    """

    KIND = "rewiring"

    comparison: Comparison
    followed: FollowedObjects
    written: Float[np.ndarray, "side src"]
    logit_differences: tuple[float, float]
    heads: tuple[HeadChange, ...]
    restoration: Restoration | None
    provenance: Mapping[str, Any] = field(default_factory=dict)

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
        facts["old minus new object"] = f"{old:.2f} logits before, {new:.2f} after"
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
            "logits that a head's words moved from the old to the new object",
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
        from locate.changes.rewiring_files import arrays_of

        return arrays_of(self)

    def metadata(self) -> dict[str, Any]:
        """What describes all parts, from which every table and figure can be made again."""
        from locate.changes.rewiring_files import metadata_of

        return metadata_of(self)

    @classmethod
    def check_header(cls, layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
        """The comparison as comparisons are checked."""
        about = metadata.get("comparison")
        if not isinstance(about, dict):
            raise ContentError("lacks the comparison of a rewiring")
        prefix = "comparison."
        own = {n.removeprefix(prefix): each for n, each in layouts.items() if n.startswith(prefix)}
        Comparison.check_header(own, about)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Rewiring:
        """The inverse of `arrays` and `metadata`; OptionError where shapes do not fit."""
        from locate.changes.rewiring_files import read_rewiring

        return read_rewiring(arrays, metadata)

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
            "restoration": None if self.restoration is None else self.restoration.as_dict(),
            "provenance": dict(self.provenance),
        }


@alone
def rewiring(
    model: Model,
    delta: WeightDelta,
    pairs: Sequence[TokenPair],
    pairs_after: Sequence[TokenPair] | None = None,
    *,
    selector: Callable[[EdgeScores], Circuit],
    scoring: Scoring | None = None,
    before: EdgeScores | None = None,
    settings: NoiseSettings | None = None,
    roles: Mapping[str, str] | None = None,
    resamples: int = 200,
    n_heads: int = 5,
    draws: int = 20,
    draw: Draw | str = Draw.CARRYING,
    restore_at_most: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Rewiring:
    """What `delta` does to the circuit that the pairs call for; the model is left as it was.

    A pair's answer is the old object and its foil the new one. With `pairs_after`, the same prompts
    asked otherwise row by row, the two sides' answers are the objects, and the edited model is
    scored on that side's pair whose answer it prefers (`Contrast.ANSWER`).
    `scoring` may name any method that scores single pairs.
    `selector` makes circuits of scores. `before` may give the unedited model's scores of these
    pairs, where several edits are held against them. `draws` is the number of random sets in the
    causal check, `n_heads` of the most changed heads on either count; 0 leaves the part out.
    `restore_at_most` restores the largest changes only. Every pair must name its subject.
    `progress` sees (pairs attributed, pairs in all).
    """
    scoring = scoring or Scoring()
    draw = Draw.of(draw)
    _check_sides(pairs, pairs if pairs_after is None else pairs_after)
    asked = distinct_prompts(pairs, pairs_after)
    n_runs = 1 if before is not None else 2

    def attributed(asked_for: Sequence[TokenPair], done: int) -> EdgeScores:
        return pair_scores(
            model,
            asked_for,
            scoring,
            batch_size=batch_size,
            progress=progress and (lambda n, total: progress(done + n, n_runs * total)),
        )

    before = attributed(pairs, 0) if before is None else before
    views = [view_heads(model, asked, batch_size)] if n_heads else []
    lenses = [_follow(model, asked)]
    direct = [direct_logit_attribution(model, asked, batch_size)]
    with delta.applied(model):
        said = pairs if pairs_after is None else _preferred(model, pairs, pairs_after, batch_size)
        after = attributed(said, (n_runs - 1) * len(pairs))
        views += [view_heads(model, asked, batch_size)] if n_heads else []
        lenses.append(_follow(model, asked))
        direct.append(direct_logit_attribution(model, asked, batch_size))
    sample = Sample.of([pair.text for pair in pairs])
    comparison = compare_scores(
        before,
        after,
        selector,
        sample,
        settings=settings,
        resamples=resamples,
        seed=seed,
        roles=roles,
    )
    restoration = None
    if draws:
        edges = changed_edges(comparison, restore_at_most)
        restoration = restore_edges(
            model,
            delta,
            asked,
            edges,
            wiring=before.wiring,
            draws=draws,
            draw=draw,
            seed=seed,
            batch_size=batch_size,
        )
    return Rewiring(
        comparison=comparison,
        followed=_followed(asked, lenses),
        written=np.stack([each.mean() for each in direct]),
        logit_differences=_both(float(each.logit_difference.mean()) for each in direct),
        heads=_heads(model, comparison, views, n_heads, roles),
        restoration=restoration,
        provenance={
            **model.provenance,
            **scoring.record(),
            "edit": {**delta.provenance, "sha256": delta.fingerprint(), "norm": delta.norm()},
            "pairs": len(pairs),
            "prompts": len(asked),
            "resamples": resamples,
            "draws": draws,
            "draw": str(draw),
            "restore_at_most": restore_at_most,
            "seed": seed,
        },
    )


def distinct_prompts(
    pairs: Sequence[TokenPair], pairs_after: Sequence[TokenPair] | None = None
) -> list[TokenPair]:
    """Every clean prompt once, its answer the old and its foil the new object.

    The new object is the foil, or the answer after the edit where that differs.
    """
    found: dict[str, TokenPair] = {}
    for pair, other in zip(pairs, pairs if pairs_after is None else pairs_after, strict=True):
        if other.answer != pair.answer:
            text = replace(pair.text, foil=other.text.answer)
            pair = replace(pair, foil=other.answer, text=text)
        found.setdefault(pair.text.clean, pair)
    return list(found.values())


def changed_edges(comparison: Comparison, at_most: int | None = None) -> np.ndarray:
    """The edges called changed, or of these the ones that changed most."""
    changes = comparison.changes
    assert changes is not None, "a rewiring has a noise floor"
    called = changes.called(Decision.CHANGED)
    if at_most is None or called.sum() <= at_most:
        return called
    order = np.argsort(np.where(called, -np.abs(changes.change), np.inf), kind="stable")
    chosen = np.zeros_like(called)
    chosen[order[:at_most]] = True
    return chosen


@alone
@torch.no_grad()
def _preferred(
    model: Model, pairs: Sequence[TokenPair], pairs_after: Sequence[TokenPair], batch_size: int
) -> list[TokenPair]:
    """Of each two pairs the one whose answer the model prefers after the clean prompt."""
    chosen = list(pairs)
    for batch in batches(pairs, batch_size, model):
        logits = model.last_logits(batch.clean)
        other = torch.tensor([pairs_after[row].answer for row in batch.index], device=model.device)
        moved = logit_difference(logits, other, batch.answer) > 0
        for row in np.array(batch.index)[moved.cpu().numpy()].tolist():
            chosen[row] = pairs_after[row]
    return chosen


def _follow(model: Model, asked: Sequence[TokenPair]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rank and probability by state, place and label, prompt by prompt."""
    found = []
    for pair in asked:
        tokens = dict(zip(LABELS, (pair.answer, pair.foil), strict=True))
        lens = logit_lens(model, pair.clean, tokens, lens_positions(pair.clean, pair.subject))
        found.append((lens.rank, lens.probability))
    return found


def _followed(
    asked: Sequence[TokenPair], lenses: Sequence[list[tuple[np.ndarray, np.ndarray]]]
) -> FollowedObjects:
    rank, probability = (
        np.stack([np.stack([prompt[which] for prompt in side]) for side in lenses])
        for which in (0, 1)
    )
    places = tuple(lens_positions(asked[0].clean, asked[0].subject))
    prompts = tuple(pair.text.clean for pair in asked)
    return FollowedObjects(prompts, places, rank, probability)


def _heads(
    model: Model,
    comparison: Comparison,
    views: Sequence[HeadViews],
    n_heads: int,
    roles: Mapping[str, str] | None,
) -> tuple[HeadChange, ...]:
    if not n_heads:
        return ()
    before, after = views
    return head_changes(model, comparison, before, after, n_heads, roles or {})


def _both(values: Iterable[float]) -> tuple[float, float]:
    before, after = values
    return before, after


def _check_sides(pairs: Sequence[TokenPair], pairs_after: Sequence[TokenPair]) -> None:
    if not pairs:
        raise OptionError("there are no prompt pairs to compare on")
    left, right = ([(p.clean.ids, p.corrupted.ids) for p in side] for side in (pairs, pairs_after))
    if left != right:
        raise OptionError("the pairs after an edit must ask the same prompts as those before")
