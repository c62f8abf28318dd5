"""One request's circuit in the unedited model, against which several changes can be held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.pairs import edit_pairs
from circuits.facts.facts import Fact
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from locate.changes.rewired import Rewiring
from locate.changes.rewiring import Side, rewiring, unedited_side
from locate.search import Search


@dataclass(frozen=True, eq=False)
class Unedited:
    """The pairs before and after an edit, and the model's side before it, found once."""

    model: Model
    pairs: tuple[list[TokenPair], list[TokenPair]]
    side: Side
    seed: int
    batch_size: int
    roles: Mapping[str, str] = field(default_factory=dict)

    def rewired(self, delta: WeightDelta, draws: int) -> Rewiring:
        """What a change does to the circuit; `draws` random sets of edges check it."""
        return rewiring(
            self.model,
            delta,
            *self.pairs,
            selector=Search().selected,
            before=self.side,
            roles=self.roles,
            resamples=0,
            draws=draws,
            seed=self.seed,
            batch_size=self.batch_size,
        )


def unedited(
    model: Model,
    request: EditRequest,
    *,
    partners: int,
    seed: int,
    batch_size: int,
    others: Sequence[Fact] | None = None,
    roles: Mapping[str, str] | None = None,
) -> Unedited:
    """The request's pairs, scored; `partners` and `others` as in `edit_pairs`, which may refuse."""
    found = edit_pairs(model.tokenizer, [request], partners=partners, others=others, seed=seed)
    pairs = found.encode(model.tokenizer)
    side = unedited_side(model, *pairs, batch_size=batch_size)
    return Unedited(model, pairs, side, seed, batch_size, roles or {})
