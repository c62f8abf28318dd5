"""What one edit does to one fact's circuit, to its answer layer by layer, and to other answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.pairs import edit_pairs
from circuits.facts.facts import Relation
from circuits.graph.noise import Decision
from circuits.model.model import Model
from experiments.analyses.edit_effects.prompts import KINDS, Said, prompts_of, say
from experiments.analyses.engine.groups import (
    EMBEDDING,
    HEADS,
    MLPS,
    MOVERS,
    RELATION,
    group_of,
    is_mover,
)
from locate.changes.rewired import LABELS, Rewiring
from locate.changes.rewiring import rewiring, unedited_side
from locate.search import Scoring, Search
from locate.states.lens import logit_lens

EDITED, OTHER_MLPS = "edited MLP", "other MLPs"
GROUPS = (EDITED, MOVERS, HEADS, OTHER_MLPS, EMBEDDING)


class EditedFact:
    """One fact to edit: its pairs, prompts and circuit in the unedited model.

    A pair's answer is the old object and its foil the new one, so that one functional of the
    logits is taken apart before and after.
    """

    def __init__(
        self,
        model: Model,
        request: EditRequest,
        relation: Relation,
        others: Sequence[Relation],
        roles: Mapping[str, str],
        *,
        partners: int,
        neighbours: int,
        steps: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self.model, self.request, self.roles = model, request, roles
        self.batch_size = batch_size
        pairs = edit_pairs(
            model.tokenizer, [request], partners=partners, others=relation.facts, seed=seed
        )
        self.pairs = pairs.encode(model.tokenizer)[0]
        self.asked = prompts_of(model, request, relation, others, neighbours, seed)
        self.options = Scoring(steps=steps)
        self.side = unedited_side(
            model, self.pairs, scoring=self.options, n_heads=0, batch_size=batch_size
        )
        self.said = say(model, self.asked, batch_size)
        scores = self.side.scores
        wiring, mass = scores.wiring, np.abs(scores.values).astype(float)
        self.mass = np.bincount(wiring.edge_src, mass, wiring.n_src) / mass.sum()

    def unedited(self) -> dict[str, Any]:
        """The numbers that all edits of the fact share."""
        model, pair = self.model, self.pairs[0]
        lens = logit_lens(
            model, pair.clean, dict(zip(LABELS, (pair.answer, pair.foil), strict=True))
        )
        return {
            "lens": _by_object(lens.rank[:, 0], lens.probability[:, 0]),
            "known": self._rates(self.said),
            "movers": sum(is_mover(role) for role in self.roles.values()),
            "mlp_mass": [
                float(self.mass[self.side.scores.wiring.mlp_src(layer)])
                for layer in range(model.n_layers)
            ],
        }

    def measured(self, delta: WeightDelta, layer: int) -> dict[str, Any]:
        """What the edit, which changes this layer's MLP, does."""
        found = rewiring(
            self.model,
            delta,
            self.pairs,
            selector=Search().selected,
            scoring=self.options,
            before=self.side,
            resamples=0,
            n_heads=0,
            draws=0,
            batch_size=self.batch_size,
        )
        with delta.applied(self.model):
            said = say(self.model, self.asked, self.batch_size)
        comparison, followed = found.comparison, found.followed
        assert comparison.changes is not None, "scores of single pairs were kept"
        after, last = 1, followed.places.index("last")
        return {
            "lens": _by_object(
                followed.rank[after, 0, :, last], followed.probability[after, 0, :, last]
            ),
            "rates": self._rates(said),
            "new_probability": float(said.new[0]),
            "swing": self._swing(found, layer),
            "switched": found.switched_of([n for n, role in self.roles.items() if is_mover(role)]),
            "jaccard": comparison.jaccard,
            "node_jaccard": comparison.node_jaccard,
            "dissimilarity": comparison.dissimilarity,
            "changed": int(comparison.changes.called(Decision.CHANGED).sum()),
            "moved_by_layer": {mass.group: mass.share for mass in comparison.by_layer()},
        }

    def _rates(self, said: Said) -> dict[str, dict[str, float | None]]:
        """By kind of prompt: how often the new and the old object come out, and p of the new.

        `kept` is of the prompts that the unedited model answers with the old object; None of none.
        """
        found: dict[str, dict[str, float | None]] = {}
        for kind in KINDS:
            rows = [row for row, each in enumerate(self.asked) if each.kind == kind]
            if rows:
                new = np.array([self.asked[row].new for row in rows])
                old = np.array([self.asked[row].old for row in rows])
                right, before = said.best[rows] == old, self.said.best[rows] == old
                found[kind] = {
                    "n": len(rows),
                    "new": float((said.best[rows] == new).mean()),
                    "old": float(right.mean()),
                    "kept": float(right[before].mean()) if before.any() else None,
                    "p_new": float(said.new[rows].mean()),
                }
        return found

    def _swing(self, found: Rewiring, layer: int) -> dict[str, float]:
        """By how many logits each group's direct words moved from the old to the new object."""
        change = found.written[0] - found.written[1]
        groups = [self._group(name, layer) for name in self.side.scores.wiring.src_names]
        return {
            group: float(sum(x for x, own in zip(change, groups, strict=True) if own == group))
            for group in GROUPS
        }

    def _group(self, name: str, layer: int) -> str:
        if name == f"m{layer}":
            return EDITED
        found = group_of(name, self.roles)
        return {MLPS: OTHER_MLPS, RELATION: HEADS}.get(found, found)


def _by_object(rank: np.ndarray, probability: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The curves of both objects by layer, of arrays with an axis of `LABELS` at the end."""
    return {
        label: {"rank": rank[:, at], "probability": probability[:, at].astype(float)}
        for at, label in enumerate(LABELS)
    }
