"""How neurons are searched for, as options; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.choices import Metric, Ranking, Rule
from circuits.base.errors import OptionError
from circuits.base.idle import Idle
from circuits.base.options import Options, option
from locate.edges.locators import Locator
from locate.search import MOST_SEEDS, Scoring

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit
    from circuits.model.model import Model

USUAL_MLPS = 8
"""MLPs that are tested where none is named."""
METHODS = (Locator.EAP, Locator.EAP_IG, Locator.EAP_IG_ACTIVATIONS, Locator.RELP, Locator.GIM)
"""Locators whose gradients neurons can be scored with."""


@dataclass(frozen=True)
class NeuronSearch(Options):
    """Everything that decides the neurons and their check, apart from the model and the pairs.

    Of every MLP as many neurons are kept as the largest of `sizes` says.
    """

    method: Locator = option(
        Locator.EAP_IG, f"Whose gradients score the neurons: {', '.join(METHODS)}."
    )
    steps: int = option(5, "Integration steps of EAP-IG.", low=1, high=1000)
    rule: Rule = option(Rule.MIDPOINT, "Where in each step EAP-IG looks.")
    metric: Metric = option(Metric.LOGIT_DIFFERENCE, "What counts as recalling the fact.")
    ranking: Ranking = option(
        Ranking.ABSOLUTE,
        "Rank neurons by |score|, or by score (supporting ones first).",
        flags=("--rank",),
    )
    sizes: tuple[int, ...] = option(
        (1, 4, 16, 64),
        "Patch so many of an MLP's best neurons together; repeatable.",
        low=1,
        flags=("--size",),
    )
    n_mlps: int | None = option(
        None,
        "Test the neurons of so many MLPs, those that score most; 8 unless MLPs are named.",
        low=1,
    )
    n_random: int = option(
        3, "Random sets of neurons to compare with.", low=1, high=1000, flags=("--random",)
    )
    batch_size: int = option(
        16, "Pairs a pass.", low=1, high=1_000_000, flags=("--batch-size", "-b")
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise OptionError(f"neurons get scores by `method` {known}, not by {self.method}")
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise OptionError("`sizes` are numbers of neurons, at least one and each once")
        object.__setattr__(self, "sizes", tuple(sorted(self.sizes)))
        self.metric.check_one_token("the scoring of neurons")
        _ = self.scoring  # refuses what does not go together

    def idle(self) -> tuple[Idle, ...]:
        """Those of the scoring."""
        return self.scoring.idle()

    @property
    def scoring(self) -> Scoring:
        """How runs are made and measured, as of edges."""
        return Scoring(method=self.method, steps=self.steps, rule=self.rule, metric=self.metric)

    def sizes_of(self, d_mlp: int) -> tuple[int, ...]:
        """The sizes that an MLP of so many neurons has; all of them where it has no more."""
        return tuple(size for size in self.sizes if size <= d_mlp) or (d_mlp,)


@dataclass(frozen=True)
class Within(Options):
    """The MLPs whose neurons are looked at: those named, a stored circuit's, or all."""

    circuit: Path | None = option(None, "a stored circuit, whose MLPs they are")
    mlp: tuple[str, ...] = option((), "MLPs by name, as m5")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.circuit is not None and self.mlp:
            raise OptionError("`circuit` names the MLPs already: give it, or `mlp`")

    def stored(self) -> Circuit | None:
        """The circuit, where one is named; CircuitFileError where it is none."""
        from circuits.files.reading import read_circuit

        return None if self.circuit is None else read_circuit(self.circuit)

    def mlps(self, model: Model, bos: bool | None) -> tuple[Any, bool | None]:
        """What `find_neurons` takes: the circuit on the model's wiring, or the names; and the BOS.

        Errors and warnings are those of `locate.evaluate.looked_into`.
        """
        from locate.evaluate import looked_into

        stored = self.stored()
        if stored is None or self.circuit is None:
            return self.mlp, bos
        return looked_into(stored, model, self.circuit, bos)
