"""Scores of a wiring's edges.

`circuits.model.wiring` says which edges a model has and what they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuits.base.choices import KeyValue, Meaning
from circuits.base.display import Shown, Summary, named
from circuits.base.errors import OptionError
from circuits.model.wiring import Wiring

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.graph.circuit import Circuit

SHOWN = 8
"""Edges in a summary."""


def read_only(array: np.ndarray, copy: bool = True) -> np.ndarray:
    """The array as nobody can write to it: a copy, or a view where the caller keeps the original.

    An array that is read-only already is taken as it is.
    """
    if array.flags.writeable:
        array = array.copy() if copy else array.view()
        array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class EdgeScores(Shown):
    """One score an edge: an estimate of m(clean) - m(edge replaced), or what `meaning` says.

    `per_pair`, where kept, holds one row an example, whose mean is `values`: resampling examples
    is then array work. `provenance` says which model, method, parameters and data gave the numbers.
    """

    wiring: Wiring
    values: Float[np.ndarray, " edge"]
    per_pair: Float[np.ndarray, "pair edge"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.shape != (self.wiring.n_edges,):
            raise OptionError(
                f"{self.values.shape[0]} scores do not fit {self.wiring.describe()}, "
                f"which has {self.wiring.n_edges} edges"
            )
        object.__setattr__(self, "provenance", dict(self.provenance))
        object.__setattr__(self, "values", read_only(self.values))
        if self.per_pair is not None:  # large: flagged, not copied
            object.__setattr__(self, "per_pair", read_only(self.per_pair, copy=False))

    @property
    def meaning(self) -> Meaning:
        """What the method's scores say; UNKNOWN where a file says it in no word that there is."""
        said = self.provenance.get("meaning", Meaning.EFFECT)
        return Meaning(said) if said in tuple(Meaning) else Meaning.UNKNOWN

    def matrix(self) -> Float[np.ndarray, "*span src dst"]:
        """Scores as a matrix, 0 where there is no edge; by span where spans are told apart."""
        return self.wiring.to_matrix(self.values)

    def blind(self) -> EdgeScores:
        """The scores without spans: each edge's summed over them."""
        wiring = self.wiring.with_spans()

        def summed(values: np.ndarray) -> np.ndarray:
            return values.reshape(*values.shape[:-1], -1, wiring.n_edges).sum(-2)

        per_pair = None if self.per_pair is None else summed(self.per_pair)
        origin = {name: value for name, value in self.provenance.items() if name != "spans"}
        return EdgeScores(wiring, summed(self.values), per_pair, origin)

    def __getitem__(self, edge: str) -> float:
        return float(self.values[self.wiring.edge_index(edge)])

    def strongest(self, n: int) -> Circuit:
        """The n edges of largest |score|, as they are: not pruned to what is connected."""
        from circuits.graph.circuit import Circuit

        kept = np.zeros(len(self.values), dtype=bool)
        kept[np.argsort(-np.abs(self.values), kind="stable")[:n]] = True
        return Circuit(self.wiring, kept, self, provenance=self.provenance)

    def top(self, n: int) -> Circuit:
        """The circuit of the n best edges, without those that nothing leads to or on from."""
        from circuits.graph.select import select

        return select(self, "top", n=n)

    def rows(self) -> list[dict[str, Any]]:
        """One record an edge, strongest first."""
        from circuits.graph.circuit import Circuit

        return Circuit.full(self.wiring, self).rows()

    def summary(self) -> Summary:
        """Method, spread of the scores, and the strongest edges."""
        supporting = int((self.values > 0).sum())
        facts = {
            **named(self.provenance, "model", "method", "metric", "ablation"),
            "score mass": f"{np.abs(self.values).sum():.4g}",
        }
        if self.meaning.has_sign:
            opposing = int((self.values < 0).sum())
            facts["supporting / opposing"] = f"{supporting:,} / {opposing:,}"
        strong = self.strongest(SHOWN)
        return Summary(
            f"Scores of {self.wiring.n_edges:,} edges",
            facts,
            "strongest edges",
            ("edge", "score"),
            strong.strongest(SHOWN),
        )

    def plot(self, max_edges: int = 60, **options: Any) -> go.Figure:
        """The strongest edges that lie on paths from input to logits, as `Circuit.plot` draws."""
        from circuits.graph.circuit import Circuit

        return Circuit.full(self.wiring, self).plot(max_edges=max_edges, **options)

    def grouped(self) -> EdgeScores:
        """Key and value scores summed over the query heads that share a key-value head."""
        old, new = self.wiring, self.wiring.with_kv(KeyValue.GROUPED)
        if old.n_key_inputs == new.n_key_inputs:
            return replace(self, wiring=new)
        size = old.n_heads // old.n_kv_heads

        def merge(values: np.ndarray) -> np.ndarray:
            matrix = old.to_matrix(values)
            shape = matrix.shape[:-2]
            body = matrix[..., :-1].reshape(*shape, old.n_src, old.n_layers, -1)
            heads = old.n_heads
            queries, mlp = body[..., :heads], body[..., -1:]
            keys_values = body[..., heads:-1].reshape(*body.shape[:-1], 2 * old.n_kv_heads, size)
            merged = np.concatenate([queries, keys_values.sum(-1), mlp], axis=-1)
            merged = merged.reshape(*shape, old.n_src, -1)
            return new.from_matrix(np.concatenate([merged, matrix[..., -1:]], axis=-1))

        per_pair = None if self.per_pair is None else merge(self.per_pair)
        return replace(self, wiring=new, values=merge(self.values), per_pair=per_pair)
