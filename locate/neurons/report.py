"""What is found of neurons, as a value; `locate.neurons.find` makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuits.base.display import Summary, named, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, bootstrap_means, bootstrap_ratios
from circuits.base.results import Result, numeric, texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 8
"""Neurons in a summary."""
UNDEFINED_BELOW = 1e-6
"""A share is undefined where patching the whole MLP costs no more than this."""
HALF = 0.5
"""The share of what an MLP does that the fewest neurons are named for."""
NOTABLE = 0.05
"""MLPs that cost less than this share of the one that costs most are not held beside it."""
_ARRAYS = {
    "found": ("f", 2),
    "found_costs": ("f", 1),
    "found_carried": ("f", 2),
    "kept": ("i", 2),
    "scores": ("f", 3),
    "nodes": ("f", 2),
    "changes": ("f", 3),
    "costs": ("f", 2),
    "carried": ("f", 3),
    "random": ("f", 3),
    "facts": ("i", 1),
}
"""Type and axes of what a file holds."""


@dataclass(frozen=True)
class Reading:
    """Where a neuron does most, and what it writes there.

    `place` is the span of the prompt in which its part is largest in most pairs, `share` of how
    many of them that holds; `tokens` are the clean prompts' commonest tokens there. `writes` are
    the tokens that its clean activation, less the corrupted one, raises most.
    """

    place: str
    share: float
    tokens: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Neuron:
    """One neuron; `score` is on the pairs that tested it, `found` on those that chose it."""

    mlp: str
    index: int
    score: Interval
    found: float
    change: float
    reading: Reading

    @property
    def name(self) -> str:
        """`m5.n123`."""
        return f"{self.mlp}.n{self.index}"


@dataclass(frozen=True)
class Carried:
    """What so many of an MLP's best neurons carry of what the whole MLP does.

    `share` is what patching them costs over what patching the MLP costs, `random` the same of
    random neurons of it.
    """

    size: int
    share: Interval
    random: Interval


@dataclass(frozen=True, eq=False)
class NeuronReport(Result):
    """The neurons of some MLPs: scores of all, and the best of each MLP, best first, tested.

    `found` are mean scores on the pairs that chose the neurons, `found_costs` and `found_carried`
    the means of `costs` and `carried` there. All else is of the pairs that tested them: scores of
    the `kept` neurons and of the MLPs (`nodes`); the kept neurons' clean minus corrupted activation
    where their part is largest (`changes`); and what the metric loses by patching the whole MLP
    (`costs`), its best neurons (`carried`), or as many random ones (`random`, the mean over draws).
    `readings` are by MLP, then neuron. `facts` number what each pair asks (`Sample.groups`):
    intervals are over these.
    """

    KIND = "neurons"

    mlps: tuple[str, ...]
    sizes: tuple[int, ...]
    readings: tuple[tuple[Reading, ...], ...]
    found: Float[np.ndarray, "mlp d_mlp"]
    found_costs: Float[np.ndarray, " mlp"]
    found_carried: Float[np.ndarray, "mlp size"]
    kept: Int[np.ndarray, "mlp kept"]
    scores: Float[np.ndarray, "pair mlp kept"]
    nodes: Float[np.ndarray, "pair mlp"]
    changes: Float[np.ndarray, "pair mlp kept"]
    costs: Float[np.ndarray, "pair mlp"]
    carried: Float[np.ndarray, "pair mlp size"]
    random: Float[np.ndarray, "pair mlp size"]
    facts: Int[np.ndarray, " pair"]
    provenance: Mapping[str, Any]

    @property
    def d_mlp(self) -> int:
        """Neurons of an MLP."""
        return self.found.shape[1]

    @property
    def order(self) -> list[str]:
        """The MLPs, that first whose patching changes the metric most on the pairs that chose."""
        largest = np.argsort(-np.abs(self.found_costs), kind="stable")
        return [self.mlps[at] for at in largest]

    @property
    def notable(self) -> list[str]:
        """Of `order` those whose patching costs at least `NOTABLE` of what that of the first does.

        Decided on the pairs that chose.
        """
        costs = dict(zip(self.mlps, np.abs(self.found_costs).tolist(), strict=True))
        return [mlp for mlp in self.order if costs[mlp] >= NOTABLE * max(costs.values())]

    def fewest(self, mlp: str) -> int:
        """The smallest size that carries `HALF` on the pairs that chose, or the largest there is.

        Its place in `sizes`, so that what the others say of it had no part in choosing it.
        """
        enough = np.flatnonzero(self._found_shares(mlp) >= HALF)
        return int(enough[0]) if len(enough) else len(self.sizes) - 1

    @property
    def sparsest(self) -> str | None:
        """The MLP of which fewest neurons carry `HALF` on the pairs that chose; None if none do.

        Only those that are `notable` count.
        """
        shares = {mlp: self._found_shares(mlp) for mlp in self.notable}
        reached = {mlp: each[each >= HALF] for mlp, each in shares.items() if (each >= HALF).any()}
        if not reached:
            return None
        return min(reached, key=lambda mlp: (self.fewest(mlp), -float(reached[mlp][0])))

    def _found_shares(self, mlp: str) -> Float[np.ndarray, " size"]:
        """What an MLP's best neurons carry on the pairs that chose; 0 where it does nothing."""
        at = self._at(mlp)
        if abs(self.found_costs[at]) <= UNDEFINED_BELOW:
            return np.zeros(len(self.sizes))
        return np.asarray(self.found_carried[at] / self.found_costs[at])

    def cost(self, mlp: str) -> Interval:
        """What the metric loses by patching the whole MLP."""
        return self._means(self.costs[:, [self._at(mlp)]])[0]

    def matters(self, mlp: str) -> bool:
        """Whether patching the MLP changes the metric: the interval leaves out 0.

        From too few pairs for an interval, whether the mean is any but 0.
        """
        cost = self.cost(mlp)
        if not np.isfinite(cost.low):
            return abs(cost.value) > UNDEFINED_BELOW
        return cost.low > 0 or cost.high < 0

    def node(self, mlp: str) -> Interval:
        """The MLP's score, to which those of all its neurons sum."""
        return self._means(self.nodes[:, [self._at(mlp)]])[0]

    def shares(self, mlp: str) -> list[Carried]:
        """What the best neurons of an MLP carry, by how many, beside random ones."""
        at = self._at(mlp)
        whole = np.repeat(self.costs[:, [at]], len(self.sizes), 1)
        best, random = (
            bootstrap_ratios(part[:, at], whole, UNDEFINED_BELOW, groups=self.facts)
            for part in (self.carried, self.random)
        )
        return [Carried(*each) for each in zip(self.sizes, best, random, strict=True)]

    def neurons(self, mlp: str) -> list[Neuron]:
        """The kept neurons of an MLP, best first."""
        at = self._at(mlp)
        scores, changes = self._means(self.scores[:, at]), self.changes[:, at].mean(0)
        return [
            Neuron(
                mlp,
                int(index),
                scores[place],
                float(self.found[at, index]),
                float(changes[place]),
                self.readings[at][place],
            )
            for place, index in enumerate(self.kept[at])
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One record a kept neuron, MLPs in `order`."""
        return [
            {
                "neuron": each.name,
                "mlp": mlp,
                "rank": rank,
                "score": each.score.value,
                "low": _known(each.score.low),
                "high": _known(each.score.high),
                "found": each.found,
                "change": each.change,
                "place": each.reading.place,
                "share": each.reading.share,
                "tokens": " ".join(map(token_name, each.reading.tokens)),
                "writes": " ".join(map(token_name, each.reading.writes)),
            }
            for mlp in self.order
            for rank, each in enumerate(self.neurons(mlp), start=1)
        ]

    def records(self) -> list[dict[str, Any]]:
        """One record an MLP, in `order`: its score and cost, and what its best neurons carry."""
        return [
            {
                "mlp": mlp,
                "neurons": self.d_mlp,
                "score": self.node(mlp).as_dict(),
                "cost": self.cost(mlp).as_dict(),
                "matters": self.matters(mlp),
                "carried": [
                    {
                        "neurons": each.size,
                        "share": each.share.as_dict(),
                        "random": each.random.as_dict(),
                    }
                    for each in self.shares(mlp)
                ],
            }
            for mlp in self.order
        ]

    def summary(self) -> Summary:
        """The MLP that matters most, and its best neurons."""
        mlp = self.order[0]
        facts = named(self.provenance, "model", "relation", "pairs")
        facts["MLPs"] = f"{len(self.mlps)} of {self.d_mlp:,} neurons each"
        facts[f"patching {mlp} costs"] = str(self.cost(mlp))
        for each in self.shares(mlp):
            facts[f"its best {each.size}"] = f"{each.share}; random ones {each.random}"
        rows = [
            (
                each.name,
                str(each.score),
                f"{each.reading.place} {each.reading.share:.0%}",
                " ".join(map(token_name, each.reading.writes)),
            )
            for each in self.neurons(mlp)[:SHOWN]
        ]
        header = ("neuron", "score", "does most at", "writes")
        note = "shares of what patching the whole MLP costs; neurons by score"
        several = "s" * (len(self.mlps) != 1)
        return Summary(f"Neurons of {len(self.mlps)} MLP{several}", facts, note, header, rows)

    def plot(self, **options: Any) -> go.Figure:
        """What the best neurons carry, by how many; as `viz.screen.neurons_figure` draws."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers of each pair, for a file; `metadata` holds the rest."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "mlps": list(self.mlps),
            "sizes": list(self.sizes),
            "readings": [
                [
                    {**vars(each), "tokens": list(each.tokens), "writes": list(each.writes)}
                    for each in some
                ]
                for some in self.readings
            ],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> NeuronReport:
        """The inverse of `arrays` and `metadata`; OptionError where shapes do not fit.

        Of a file that does not say which fact a pair asks, each pair asks one of its own.
        """
        arrays = {"facts": np.arange(len(arrays.get("nodes", ()))), **arrays}
        numbers = {name: numeric(arrays, name, *form) for name, form in _ARRAYS.items()}
        mlps, sizes = texts(metadata["mlps"]), tuple(metadata["sizes"])
        readings = tuple(tuple(_reading(each) for each in some) for some in metadata["readings"])
        _check_shapes((len(mlps), len(sizes)), [len(some) for some in readings], numbers)
        if not all(type(size) is int and size > 0 for size in sizes):
            raise OptionError("a number of neurons is none")
        return cls(mlps, sizes, readings, **numbers, provenance=dict(metadata["provenance"]))

    def _means(self, values: Float[np.ndarray, "pair column"]) -> list[Interval]:
        limits = np.stack(bootstrap_means(values, groups=self.facts), -1)
        return [Interval(*(float(x) for x in each)) for each in limits]

    def _at(self, mlp: str) -> int:
        if mlp not in self.mlps:
            raise OptionError(f"the report holds {', '.join(self.mlps)}, not {mlp!r:.40}")
        return self.mlps.index(mlp)


def _check_shapes(
    n: tuple[int, int], n_readings: Sequence[int], numbers: Mapping[str, np.ndarray]
) -> None:
    """OptionError where the arrays are not those of so many MLPs and sizes, and their readings."""
    n_mlps, n_sizes = n
    n_pairs, n_kept, d_mlp = (
        len(numbers["nodes"]),
        *(numbers[x].shape[1] for x in ("kept", "found")),
    )
    shapes = {
        "found": (n_mlps, d_mlp),
        "kept": (n_mlps, n_kept),
        "facts": (n_pairs,),
        "found_costs": (n_mlps,),
        "found_carried": (n_mlps, n_sizes),
        **dict.fromkeys(("scores", "changes"), (n_pairs, n_mlps, n_kept)),
        **dict.fromkeys(("nodes", "costs"), (n_pairs, n_mlps)),
        **dict.fromkeys(("carried", "random"), (n_pairs, n_mlps, n_sizes)),
    }
    fits = all(numbers[name].shape == shape for name, shape in shapes.items())
    if not fits or not (n_pairs and n_kept and all(n)) or list(n_readings) != [n_kept] * n_mlps:
        raise OptionError("the shapes do not fit")
    if numbers["kept"].min() < 0 or numbers["kept"].max() >= d_mlp:
        raise OptionError("a neuron is none of its MLP")


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _reading(record: Mapping[str, Any]) -> Reading:
    place, share = record["place"], record["share"]
    if not isinstance(place, str) or not isinstance(share, float):
        raise OptionError("a neuron's place is none")
    return Reading(place, share, texts(record["tokens"]), texts(record["writes"]))
