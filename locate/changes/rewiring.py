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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from circuits.base.choices import Draw
from circuits.base.errors import OptionError
from circuits.base.progress import Progress
from circuits.edits.edit import WeightDelta
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.compare import compare_scores
from circuits.graph.comparison import Comparison
from circuits.graph.noise import Decision, NoiseSettings, sample_of
from circuits.graph.scores import EdgeScores
from circuits.model.holding import alone
from circuits.model.metrics import logit_difference
from circuits.model.model import Model
from locate.changes.restoration import restore_edges
from locate.changes.rewired import LABELS, FollowedObjects, Rewiring
from locate.edges.score import pair_scores
from locate.heads.head_change import HeadChange
from locate.heads.head_changes import HeadViews, head_changes, view_heads
from locate.search import Scoring
from locate.states.attribution import direct_logit_attribution
from locate.states.lens import lens_positions, logit_lens
from locate.states.logit_attribution import LogitAttribution

N_HEADS = 5


@dataclass(frozen=True, eq=False)
class Side:
    """One model's side: the edges' scores, and on the clean prompts heads, layers and sources.

    `heads` is None where they were not looked at; `layers` has rank and probability by state, place
    and label, prompt by prompt; `written` is what each source adds to the logit difference.
    """

    scores: EdgeScores
    heads: HeadViews | None
    layers: list[tuple[np.ndarray, np.ndarray]]
    written: LogitAttribution


@alone
def rewiring(
    model: Model,
    delta: WeightDelta,
    pairs: Sequence[TokenPair],
    pairs_after: Sequence[TokenPair] | None = None,
    *,
    selector: Callable[[EdgeScores], Circuit],
    scoring: Scoring | None = None,
    before: Side | None = None,
    settings: NoiseSettings | None = None,
    roles: Mapping[str, str] | None = None,
    resamples: int = 200,
    n_heads: int = N_HEADS,
    draws: int = 20,
    draw: Draw | str = Draw.CARRYING,
    restore_at_most: int | None = None,
    elsewhere: Sequence[TokenPair] = (),
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Rewiring:
    """What `delta` does to the circuit that the pairs call for; the model is left as it was.

    A pair's answer is the old object and its foil the new one. With `pairs_after`, the same prompts
    asked otherwise row by row, the two sides' answers are the objects, and the edited model is
    scored on that side's pair whose answer it prefers (`Contrast.ANSWER`).
    `scoring` may name any method that scores single pairs.
    `selector` makes circuits of scores. `before` may give the unedited model's side of these pairs
    (`unedited_side`), where several edits are held against it. `draws` is the number of random sets
    in the causal check, `n_heads` of the most changed heads on either count; 0 leaves the part out.
    `restore_at_most` restores the largest changes only, and `elsewhere` are further pairs, which
    chose no edge, to restore them on. Every pair must name its subject.
    `progress` sees (pairs attributed, pairs in all).
    """
    scoring = scoring or Scoring()
    draw = Draw.of(draw)
    _check_sides(pairs, pairs if pairs_after is None else pairs_after)
    asked = distinct_prompts(pairs, pairs_after)
    n_runs = 1 if before is not None else 2

    def side(asked_for: Sequence[TokenPair], done: int) -> Side:
        return _side(
            model,
            asked_for,
            asked,
            scoring,
            n_heads,
            batch_size,
            progress and (lambda n, total: progress(done + n, n_runs * total)),
        )

    before = before or side(pairs, 0)
    if n_heads and before.heads is None:
        raise OptionError("`before` was found without heads, which `n_heads` asks for")
    with delta.applied(model):
        said = pairs if pairs_after is None else _preferred(model, pairs, pairs_after, batch_size)
        after = side(said, (n_runs - 1) * len(pairs))
    sample = sample_of(pairs)
    comparison = compare_scores(
        before.scores,
        after.scores,
        selector,
        sample,
        settings=settings,
        resamples=resamples,
        seed=seed,
        roles=roles,
    )
    elsewhere = distinct_prompts(elsewhere) if draws else []
    how: dict[str, Any] = {
        "edges": changed_edges(comparison, restore_at_most),
        "wiring": before.scores.wiring,
        "draws": draws,
        "draw": draw,
        "seed": seed,
        "batch_size": batch_size,
    }
    return Rewiring(
        comparison=comparison,
        followed=_followed(asked, [before.layers, after.layers]),
        written=np.stack([each.written.mean() for each in (before, after)]),
        logit_differences=_both(
            float(each.written.logit_difference.mean()) for each in (before, after)
        ),
        heads=_heads(model, comparison, [before.heads, after.heads], n_heads, roles),
        restoration=restore_edges(model, delta, asked, **how) if draws else None,
        elsewhere=restore_edges(model, delta, elsewhere, **how) if elsewhere else None,
        provenance={
            **model.provenance,
            **scoring.record(),
            "edit": {**delta.provenance, "sha256": delta.fingerprint(), "norm": delta.norm()},
            "pairs": len(pairs),
            "bos": pairs[0].clean.bos,
            "prompts": len(asked),
            "elsewhere": [pair.text.clean for pair in elsewhere],
            "resamples": resamples,
            "draws": draws,
            "draw": str(draw),
            "restore_at_most": restore_at_most,
            "seed": seed,
        },
    )


def unedited_side(
    model: Model,
    pairs: Sequence[TokenPair],
    pairs_after: Sequence[TokenPair] | None = None,
    *,
    scoring: Scoring | None = None,
    n_heads: int = N_HEADS,
    batch_size: int = 16,
) -> Side:
    """The model's own side of these pairs, for `rewiring` of several edits with these settings."""
    asked = distinct_prompts(pairs, pairs_after)
    return _side(model, pairs, asked, scoring or Scoring(), n_heads, batch_size)


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


def _side(
    model: Model,
    pairs: Sequence[TokenPair],
    asked: Sequence[TokenPair],
    scoring: Scoring,
    n_heads: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Side:
    """What the model does on the pairs, as its weights are now."""
    return Side(
        pair_scores(model, pairs, scoring, batch_size=batch_size, progress=progress),
        view_heads(model, asked, batch_size) if n_heads else None,
        _follow(model, asked),
        direct_logit_attribution(model, asked, batch_size),
    )


@alone
@torch.no_grad()
def _preferred(
    model: Model, pairs: Sequence[TokenPair], pairs_after: Sequence[TokenPair], batch_size: int
) -> list[TokenPair]:
    """Of each two pairs the one whose answer the model prefers after the clean prompt."""
    chosen = list(pairs)
    for batch in batches(pairs, batch_size, model, mixed=True, whole=True):
        logits = model.last_logits(batch.clean, ends=batch.ends)
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
    views: Sequence[HeadViews | None],
    n_heads: int,
    roles: Mapping[str, str] | None,
) -> tuple[HeadChange, ...]:
    before, after = views
    if not n_heads or before is None or after is None:
        return ()
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
