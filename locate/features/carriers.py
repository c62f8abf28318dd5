"""Which heads carry edges between features, as a value; `locate.features.carrying` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuits.base.display import Summary, named, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric, texts
from circuits.base.writing import atomic_write, to_json
from circuits.files.attribution import CARRIERS
from circuits.files.neuronpedia import read_graph

if TYPE_CHECKING:
    import plotly.graph_objects as go

RESIDUAL, REST = "residual", "rest"
"""The two carriers that are no head: no head at all, and paths through two heads and more."""
SHOWN = 12
"""Edges in a summary."""
_ARRAYS = ("source", "target", "activation", "direct", "heads", "total")


@dataclass(frozen=True, eq=False)
class Carriers(Result):
    """Edges from feature to feature at a prompt, and what carries each.

    A row of `source` and `target` is a feature's layer, its number there and its position. Of an
    edge, `total` is the source's `activation` times how the target's pre-activation depends on it
    with patterns and norms frozen and MLPs cut: `direct` is the part through no head, `heads` that
    through one head alone, and `rest` that through two and more. `weight` is what the graph's file
    says of the edges, empty where there was no file. OptionError where shapes do not fit.
    """

    KIND = "carriers"

    source: Int[np.ndarray, "edge three"]
    target: Int[np.ndarray, "edge three"]
    activation: Float[np.ndarray, " edge"]
    direct: Float[np.ndarray, " edge"]
    heads: Float[np.ndarray, "edge layer head"]
    total: Float[np.ndarray, " edge"]
    weight: Float[np.ndarray, " some"]
    prompt: str
    tokens: tuple[str, ...]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        n, ends = len(self.total), np.concatenate([self.source, self.target])
        flat = [getattr(self, name).shape for name in ("activation", "direct")]
        if self.source.shape != (n, 3) or self.target.shape != (n, 3) or flat != [(n,), (n,)]:
            raise OptionError("the ends and numbers of some edges are missing")
        if not n or len(self.heads) != n or len(self.weight) not in (0, n):
            raise OptionError("there is no edge, or some have no heads or no weight")
        if not self.heads[0].size or ends.min() < 0:
            raise OptionError("there are no heads, or places below 0")
        if ends[:, 0].max() >= self.heads.shape[1] or ends[:, 2].max() >= len(self.tokens):
            raise OptionError("a feature stands outside of the layers or of the prompt")

    @property
    def rest(self) -> Float[np.ndarray, " edge"]:
        """What goes through two heads and more."""
        return self.total - self.direct - self.heads.sum((1, 2))

    @property
    def edges(self) -> list[tuple[str, str]]:
        """The names of every edge's ends, as 3_17_5."""
        return [(_name(a), _name(b)) for a, b in zip(self.source, self.target, strict=True)]

    def parts(self) -> tuple[Carriers, ...]:
        """Itself: all edges are one picture."""
        return (self,)

    def carried(self, edge: int = 0) -> dict[str, float]:
        """What carries one edge, the largest |part| first: residual, heads between, rest.

        The parts sum to the total.
        """
        found = {RESIDUAL: float(self.direct[edge]), REST: float(self.rest[edge])}
        values = self.heads[edge]
        found |= {f"a{at}.h{head}": float(values[at, head]) for at, head in np.argwhere(values)}
        return dict(sorted(found.items(), key=lambda each: -abs(each[1])))

    def shares(self) -> dict[str, float]:
        """Every carrier's share of all edges' parts by size; they sum to 1, all are 0 if none."""
        size = {RESIDUAL: np.abs(self.direct).sum(), REST: np.abs(self.rest).sum()}
        heads = np.abs(self.heads).sum(0)
        size |= {f"a{at}.h{head}": each for (at, head), each in np.ndenumerate(heads)}
        whole = float(sum(size.values())) or 1.0
        ordered = sorted(size.items(), key=lambda each: -each[1])
        return {name: float(each) / whole for name, each in ordered}

    def misfit(self) -> float | None:
        """How far totals are from the graph's weights, as a share of the weights' size.

        |total - weight| / |weight|, lengths over all edges; None without a file's weights.
        """
        size = float(np.linalg.norm(self.weight))
        return float(np.linalg.norm(self.total - self.weight)) / size if size else None

    def label(self, end: np.ndarray) -> str:
        """A feature for reading: `3_17_5 at “ France”`."""
        return f"{_name(end)} at “{token_name(self.tokens[int(end[2])])}”"

    def rows(self) -> list[dict[str, Any]]:
        """One record an edge and carrier; `share` is of the edge's total, None where that is 0."""
        found = []
        for edge, (source, target) in enumerate(self.edges):
            total = float(self.total[edge])
            for name, value in self.carried(edge).items():
                share = value / total if total else None
                record = {"source": source, "target": target, "total": total}
                found.append({**record, "carrier": name, "value": value, "share": share})
        return found

    def edge_rows(self) -> list[dict[str, Any]]:
        """One record an edge, with its ends' tokens and its strongest head."""
        found = []
        for edge, (a, b) in enumerate(zip(self.source, self.target, strict=True)):
            values = self.heads[edge]
            at, head = np.unravel_index(int(np.abs(values).argmax()), values.shape)
            record = {
                "source": _name(a),
                "at": self.tokens[int(a[2])],
                "target": _name(b),
                "to": self.tokens[int(b[2])],
                "total": float(self.total[edge]),
                "residual": float(self.direct[edge]),
                "heads": float(values.sum()),
                "rest": float(self.rest[edge]),
                "strongest_head": f"a{at}.h{head}" if values[at, head] else None,
                "strongest": float(values[at, head]),
            }
            weight = {"weight": float(self.weight[edge])} if len(self.weight) else {}
            found.append({**record, **weight})
        return found

    def summary(self) -> Summary:
        """The edges with what carries them, and the heads that carry most of all."""
        header = ("source", "target", "total", "residual", "one head", "rest", "strongest head")
        rows = [
            (
                self.label(self.source[edge]),
                self.label(self.target[edge]),
                *(f"{each[key]:+.3g}" for key in ("total", "residual", "heads", "rest")),
                f"{each['strongest_head'] or 'none'} {each['strongest']:+.3g}",
            )
            for edge, each in enumerate(self.edge_rows()[:SHOWN])
        ]
        facts = {"prompt": self.prompt, **named(self.provenance, "model", "features")}
        facts["edges"] = f"{len(self.total):,}"
        if (misfit := self.misfit()) is not None:
            facts["off the graph's weights by"] = f"{100 * misfit:.2g} %"
        return Summary("Carriers of edges", facts, "edges by what carries them", header, rows)

    def heading(self) -> str:
        """The prompt."""
        return self.prompt

    def plot(self, **options: Any) -> go.Figure:
        """Bars of the carriers, largest first; options are those of `viz.screen`'s figure."""
        return plotted(self, **options)

    def annotate(self, graph: str | Path, out: str | Path) -> None:
        """Write a copy of an attribution graph's file whose links say what carries them.

        They get the key `carriers`, which the schema allows and viewers ignore; nothing else
        changes.
        """
        document = read_graph(graph)
        parts = {edge: self.carried(at) for at, edge in enumerate(self.edges)}
        for link in document["links"]:
            if (carried := parts.get((link["source"], link["target"]))) is not None:
                link[CARRIERS] = carried
        atomic_write(out, to_json(document, indent=1) + "\n")

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers, for a file."""
        return {name: getattr(self, name) for name in (*_ARRAYS, "weight")}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Carriers:
        """The inverse of `arrays` and `metadata`; OptionError where sizes do not fit."""
        axes = {"source": 2, "target": 2, "heads": 3}
        numbers = {
            name: numeric(arrays, name, "i" if name in _ARRAYS[:2] else "f", axes.get(name, 1))
            for name in (*_ARRAYS, "weight")
        }
        return cls(
            **numbers,
            prompt=str(metadata["prompt"]),
            tokens=texts(metadata["tokens"]),
            provenance=dict(metadata["provenance"]),
        )


def _name(end: np.ndarray) -> str:
    return "_".join(str(int(each)) for each in end)
