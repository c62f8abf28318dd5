"""What one edit does to one fact's circuit, to its answer layer by layer, and to other answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.pairs import edit_pairs
from circuits.facts.facts import Relation
from circuits.graph.circuit import EdgeScores, node_kind
from circuits.graph.compare import compare_scores
from circuits.graph.noise import Decision, Sample
from circuits.model.model import Model
from experiments.analyses.edit_effects.prompts import KINDS, Asked, Said, prompts_of, say
from locate.edges.eap import attribute
from locate.heads.role_checks import Role
from locate.search import Scoring, Search
from locate.states.lens import direct_logit_attribution, logit_lens

MOVERS = (str(Role.MOVER), str(Role.MIXTURE))
GROUPS = ("edited MLP", "mover heads", "other heads", "other MLPs", "embedding")


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
        self.asked: list[Asked] = prompts_of(model, request, relation, others, neighbours, seed)
        self.options = Scoring(steps=steps)
        self.wiring = model.wiring()
        self.before = self._seen()
        mass = np.abs(self.before["scores"].values).astype(float)
        self.mass = np.bincount(self.wiring.edge_src, mass, self.wiring.n_src) / mass.sum()

    def unedited(self) -> dict[str, Any]:
        """The numbers that all edits of the fact share."""
        before = self.before
        return {
            "lens": before["lens"],
            "known": self._rates(before["said"]),
            "movers": sum(role in MOVERS for role in self.roles.values()),
            "mlp_mass": [
                float(self.mass[self.wiring.mlp_src(layer)]) for layer in range(self.model.n_layers)
            ],
        }

    def measured(self, delta: WeightDelta, layer: int) -> dict[str, Any]:
        """What the edit, which changes this layer's MLP, does."""
        after = self._seen(delta)
        comparison = compare_scores(
            self.before["scores"],
            after["scores"],
            Search().selected,
            Sample.of([pair.text for pair in self.pairs]),
            resamples=0,
        )
        assert comparison.changes is not None, "scores of single pairs were kept"
        return {
            "lens": after["lens"],
            "rates": self._rates(after["said"]),
            "new_probability": float(after["said"].new[0]),
            "swing": self._swing(after["written"], layer),
            "switched": self._switched(after["written"]),
            "jaccard": comparison.jaccard,
            "node_jaccard": comparison.node_jaccard,
            "dissimilarity": comparison.dissimilarity,
            "changed": int(comparison.changes.called(Decision.CHANGED).sum()),
            "moved_by_layer": {mass.group: mass.share for mass in comparison.by_layer()},
        }

    def _seen(self, delta: WeightDelta | None = None) -> dict[str, Any]:
        model = self.model
        with delta.applied(model) if delta is not None else nullcontext():
            scores: EdgeScores = attribute(
                model, self.pairs, self.options, batch_size=self.batch_size, keep_pairs=True
            )
            written = direct_logit_attribution(model, self.pairs[:1], self.batch_size)
            pair = self.pairs[0]
            tokens = {"old": pair.answer, "new": pair.foil}
            lens = logit_lens(model, pair.clean, tokens, top=1)
            said = say(model, self.asked, self.batch_size)
        return {
            "scores": scores,
            "written": written.contributions[0],
            "said": said,
            "lens": {
                label: {
                    "rank": lens.rank[:, 0, column],
                    "probability": lens.probability[:, 0, column].astype(float),
                }
                for column, label in enumerate(tokens)
            },
        }

    def _rates(self, said: Said) -> dict[str, dict[str, float]]:
        """By kind of prompt: how often the new and the old object come out, and p of the new."""
        found = {}
        for kind in KINDS:
            rows = [row for row, each in enumerate(self.asked) if each.kind == kind]
            if rows:
                new = np.array([self.asked[row].new for row in rows])
                old = np.array([self.asked[row].old for row in rows])
                found[kind] = {
                    "n": len(rows),
                    "new": float((said.best[rows] == new).mean()),
                    "old": float((said.best[rows] == old).mean()),
                    "p_new": float(said.new[rows].mean()),
                }
        return found

    def _swing(self, written: np.ndarray, layer: int) -> dict[str, float]:
        """By how many logits each group's direct words moved from the old to the new object."""
        change = self.before["written"] - written
        groups = [self._group(name, layer) for name in self.wiring.src_names]
        return {
            group: float(sum(x for x, own in zip(change, groups, strict=True) if own == group))
            for group in GROUPS
        }

    def _switched(self, written: np.ndarray) -> float | None:
        """Share of mover heads that spoke for the old object and speak for the new one now."""
        movers = [
            src
            for src, name in enumerate(self.wiring.src_names)
            if self.roles.get(name, "") in MOVERS and self.before["written"][src] > 0
        ]
        return float((written[movers] < 0).mean()) if movers else None

    def _group(self, name: str, layer: int) -> str:
        if name == f"m{layer}":
            return "edited MLP"
        kind = node_kind(name)
        if kind == "head":
            return "mover heads" if self.roles.get(name, "") in MOVERS else "other heads"
        return "other MLPs" if kind == "mlp" else "embedding"
