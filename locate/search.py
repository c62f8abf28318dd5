"""What decides a circuit and its evaluation, apart from the model and the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circuits.base.choices import Ablation, KeyValue, Locator, Metric, Ranking, Rule, Selection
from circuits.base.errors import OptionError
from circuits.graph.circuit import Circuit, EdgeScores, Wiring
from circuits.graph.select import select

DEFAULT_EDGES = 200
DEFAULT_SHARE = 0.1
"""Unless told otherwise a circuit has 200 edges, in small models a tenth of all."""
DEFAULT_TAU = 0.05
"""ACDC's threshold where none is given, in units of the metric."""


@dataclass(frozen=True)
class Search:
    """Everything that decides the circuit and its evaluation, apart from model and pairs.

    `edges` counts before pruning. With ACDC `threshold` is its tau and `edges` an upper bound: the
    edges whose removal costs most are kept. `resamples` needs at least two pairs and does nothing
    for ACDC, which has no scores a pair.
    """

    locator: Locator = Locator.EAP_IG
    steps: int = 5
    rule: Rule = Rule.MIDPOINT
    metric: Metric = Metric.LOGIT_DIFFERENCE
    ablation: Ablation = Ablation.PATCH
    kv: KeyValue = KeyValue.GROUPED
    selection: Selection = Selection.TOP
    ranking: Ranking = Ranking.ABSOLUTE
    edges: int | None = None
    threshold: float | None = None
    resamples: int = 200
    n_random: int = 5
    curve: bool = False
    roles: bool = False
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.edges is not None and self.threshold is not None:
            raise OptionError("--edges and --threshold exclude each other: give one of them")
        if self.selection is Selection.THRESHOLD and self.threshold is None:
            raise OptionError("--select threshold needs --threshold")
        if self.selection is Selection.GREEDY and self.threshold is not None:
            raise OptionError("--select greedy takes --edges; --threshold goes with --select top")
        if self.selection is Selection.GREEDY and self.locator is Locator.ACDC:
            raise OptionError("ACDC selects edges itself: --select greedy goes with other methods")

    def scoring(self) -> dict[str, Any]:
        """What decides the scores, for provenance."""
        names = ["metric", "ablation", "kv"]
        names += ["steps", "rule"] if self.locator is Locator.EAP_IG else []
        return {
            "method": str(self.locator),
            **{name: _plain(getattr(self, name)) for name in names},
        }

    def n_edges(self, wiring: Wiring) -> int:
        """Edges to select; OptionError where the model has fewer."""
        if self.edges is None:
            return min(DEFAULT_EDGES, max(1, int(DEFAULT_SHARE * wiring.n_edges)))
        if self.edges > wiring.n_edges:
            raise OptionError(
                f"--edges {self.edges} is more than the {wiring.n_edges} edges of a model of "
                f"{wiring.describe()}"
            )
        return self.edges

    def selected(self, scores: EdgeScores) -> Circuit:
        """The selection and pruning that this search asks for."""
        if self.threshold is not None:
            return select(scores, Selection.THRESHOLD, t=self.threshold, by=self.ranking)
        n = self.n_edges(scores.wiring)
        return select(scores, self.selection, n, by=self.ranking)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int) else str(value)
