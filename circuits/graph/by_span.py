"""What a circuit of spans says span by span, and which edges have both signs in different spans.

An edge may support the answer at one place of the prompt and oppose it at another; summed over all
positions the two cancel, and the edge looks as if it did little (Haklay et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from circuits.base.choices import Meaning
from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores

SHARE = 0.1
"""An edge is opposed to itself where the lesser sign has at least this part of the greater."""


@dataclass(frozen=True)
class OpposedEdge:
    """An edge with both signs: its score by span, and their sum."""

    edge: str
    scores: Mapping[str, float]
    whole: float

    def as_row(self) -> dict[str, Any]:
        """A flat record for a table."""
        return {"edge": self.edge, **self.scores, "sum": self.whole}


def opposed(scores: EdgeScores, share: float = SHARE) -> Bool[np.ndarray, " edge"]:
    """Which edges of the wiring without spans support in one span and oppose in another.

    The lesser of the two largest scores of either sign is at least `share` of the greater.
    OptionError for scores that tell no spans apart.
    """
    if not scores.wiring.spans:
        raise OptionError("these scores tell no spans apart; score with `spans`")
    parts = scores.values.reshape(scores.wiring.n_spans, -1).astype(np.float64)
    for_it, against = parts.max(0).clip(min=0), (-parts.min(0)).clip(min=0)
    lesser, greater = np.minimum(for_it, against), np.maximum(for_it, against)
    return (lesser > 0) & (lesser >= share * greater)


def opposed_edges(scores: EdgeScores, n: int = 200, share: float = SHARE) -> list[OpposedEdge]:
    """Those of the n strongest edges without spans that `opposed` names, strongest first."""
    blind = scores.blind()
    order = np.argsort(-np.abs(blind.values), kind="stable")[:n]
    chosen = order[opposed(scores, share)[order]]
    parts = scores.values.reshape(scores.wiring.n_spans, -1)
    return [
        OpposedEdge(
            blind.wiring.edge_name(edge),
            dict(zip(scores.wiring.spans, parts[:, edge].tolist(), strict=True)),
            float(blind.values[edge]),
        )
        for edge in chosen.tolist()
    ]


def span_rows(circuit: Circuit) -> list[dict[str, Any]]:
    """One record a span: how many kept edges are in it, and their summed scores by sign.

    Of scores whose sign says nothing the sum of |score|. Empty where spans are not told apart;
    without sums where there are no scores.
    """
    wiring, rows = circuit.wiring, []
    for place, name in enumerate(wiring.spans):
        here = circuit.kept & (wiring.edge_span == place)
        row: dict[str, Any] = {"span": name, "edges": int(here.sum())}
        if circuit.scores is not None:
            values = circuit.scores.values[here].astype(np.float64)
            if circuit.meaning == Meaning.SIZE:
                row["score mass"] = float(np.abs(values).sum())
            else:
                row["supporting"] = float(values[values > 0].sum())
                row["opposing"] = float(values[values < 0].sum())
        rows.append(row)
    return rows


def by_layer(circuit: Circuit) -> Float[np.ndarray, "span place"]:
    """Summed signed scores of kept edges by span and the layer that writes; counts without scores.

    Place 0 is the token embedding, l + 1 layer l. OptionError where spans are not told apart.
    """
    wiring = circuit.wiring
    if not wiring.spans:
        raise OptionError("the circuit tells no spans apart: nothing to draw by span")
    found = np.zeros((wiring.n_spans, wiring.n_layers + 1))
    kept = np.flatnonzero(circuit.kept)
    layer = wiring.src_layers[wiring.edge_src[kept]] + 1
    values = np.ones(len(kept)) if circuit.scores is None else circuit.scores.values[kept]
    np.add.at(found, (wiring.edge_span[kept], layer), values)
    return found
