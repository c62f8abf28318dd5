"""The methods that score edges, as values by name; imports no torch.

Users add their own: `Locator.add("mine", function, options=Mine)`, or the function itself given as
the method of a `Scoring`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from circuits.base.choices import Choice, Meaning, Open
from circuits.base.errors import OptionError
from circuits.base.options import Options, option


class Locator(Open):
    """How edges get scores: a function

        (model, pairs, scoring, *, batch_size, keep_pairs, progress) -> EdgeScores

    whose result holds the scores of single pairs where `keep_pairs` asks for them. `options` is the
    class of the method's own options, given to it as `scoring.options`. Traits: it `uses` these
    fields of a `Scoring` besides metric, ablation and kv; it can score single pairs (`per_pair`);
    it `selects` edges itself, is called with the whole `Search` and returns a `Circuit`; it takes
    its gradient `at_clean` only, where a metric relative to the clean run has none; it is `bounded`
    by `scoring.memory`; it tells `spans` apart, as `scoring.spans` asks. `meaning` is what its
    scores say, which all sentences and legends follow; where options decide that, their class has a
    property of this name.
    """

    options: type[Any] | None = None
    uses: tuple[str, ...] = ()
    per_pair: bool = True
    selects: bool = False
    at_clean: bool = False
    bounded: bool = False
    spans: bool = False
    meaning: Meaning = Meaning.EFFECT

    EAP: ClassVar[Locator]
    EAP_IG: ClassVar[Locator]
    RELP: ClassVar[Locator]
    GIM: ClassVar[Locator]
    ATP_STAR: ClassVar[Locator]
    EAP_IG_ACTIVATIONS: ClassVar[Locator]
    EAP_GP: ClassVar[Locator]
    ENSEMBLE: ClassVar[Locator]
    EDGE_PRUNING: ClassVar[Locator]
    EXACT: ClassVar[Locator]
    ACDC: ClassVar[Locator]

    def says(self, options: Any = None) -> Meaning:
        """What its scores mean with these options of its own, None being the usual ones."""
        if options is None and self.options is not None:
            options = self.options()
        found: Meaning = getattr(options, "meaning", self.meaning)
        return found


class Patterns(Choice):
    """What attention is to RelP."""

    FROZEN = "frozen"
    HALVED = "halved"


@dataclass(frozen=True)
class RelP(Options):
    """RelP's own option."""

    patterns: Patterns = option(
        Patterns.FROZEN,
        "Attention is a constant, so that edges into queries and keys score 0; or each of the "
        "factors of a product with it gets half.",
    )


@dataclass(frozen=True)
class AtPStar(Options):
    """The two corrections of AtP*."""

    attention: bool = option(True, "Compute attention anew with the changed query or key.")
    drop: bool = option(
        True,
        "Mean of |score| over backward passes that each leave out one layer (GradDrop); without "
        "it scores have a sign.",
    )

    @property
    def meaning(self) -> Meaning:
        """Of absolute values the sign says nothing."""
        return Meaning.SIZE if self.drop else Meaning.EFFECT


@dataclass(frozen=True)
class GradientPath(Options):
    """EAP-GP's own option."""

    step: float = option(1.0, "Length of a step, in units of the embedding.", above=0)


class Joining(Choice):
    """What an ensemble takes the mean of."""

    RANKS = "ranks"
    SCORES = "scores"


@dataclass(frozen=True)
class Ensemble(Options):
    """Which locators, and how they are joined."""

    of: tuple[str, ...] = option(("eap-ig", "gim", "relp"), "The locators, by name.")
    by: Joining = option(
        Joining.SCORES,
        "Mean of the scores, each locator's divided by the root of their mean square; or of the "
        "ranks of |score|, with the sign of their mean.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.of)) != len(self.of) or len(self.of) < 2:
            raise OptionError("an ensemble is `of` two locators or more, each named once")
        for name in self.of:
            member = Locator.of(name, "of")
            if member.selects or member.options is Ensemble:
                raise OptionError(f"an ensemble takes locators that give scores, not {name}")

    def called(self) -> Mapping[str, Sequence[Open]]:
        """The members."""
        return {"of": [Locator.of(name) for name in self.of]}

    @property
    def meaning(self) -> Meaning:
        """No change of the metric; and no sign where one member has none."""
        signed = all(Locator.of(name).says().has_sign for name in self.of)
        return Meaning.SIGN if signed else Meaning.SIZE


@dataclass(frozen=True)
class EdgePruning(Options):
    """How masks are learnt."""

    updates: int = option(300, "Updates of the masks, each on all pairs.", low=1)
    share: float = option(
        0.01, "Share of the edges that the masks are driven to keep.", above=0, high=1
    )
    rate: float = option(0.3, "Learning rate.", above=0)
    seed: int = option(0, "Of the masks that are drawn.", low=0)


Locator.EAP = Locator.add(
    "eap",
    "locate.edges.eap:attribute",
    "gradient at the clean run",
    at_clean=True,
    bounded=True,
    spans=True,
)
Locator.EAP_IG = Locator.add(
    "eap-ig",
    "locate.edges.eap:attribute",
    "gradient averaged along the path of the embedding",
    uses=("steps", "rule"),
    bounded=True,
    spans=True,
)
Locator.EAP_IG_ACTIVATIONS = Locator.add(
    "eap-ig-activations",
    "locate.edges.activation_path:attribute",
    "gradient averaged along the path of what each layer's heads, or its MLP, write",
    uses=("steps", "rule"),
)
Locator.EAP_GP = Locator.add(
    "eap-gp",
    "locate.edges.eap:attribute",
    "gradient averaged along a path that follows the model's gradient",
    uses=("steps",),
    options=GradientPath,
    spans=True,
)
Locator.RELP = Locator.add(
    "relp",
    "locate.edges.eap:attribute",
    "coefficients of relevance propagation at the clean run",
    options=RelP,
    at_clean=True,
    bounded=True,
    spans=True,
)
Locator.GIM = Locator.add(
    "gim",
    "locate.edges.eap:attribute",
    "gradient at the clean run, modified where parts interact",
    at_clean=True,
    bounded=True,
    spans=True,
)
Locator.ATP_STAR = Locator.add(
    "atp-star",
    "locate.edges.atp_star:attribute",
    "gradient at the clean run, attention recomputed, absolute over passes that leave out a layer",
    options=AtPStar,
    at_clean=True,
)
Locator.ENSEMBLE = Locator.add(
    "ensemble",
    "locate.edges.ensemble:attribute",
    "mean of several locators, of their scores on one scale or of their ranks",
    uses=("steps", "rule"),
    options=Ensemble,
    spans=True,
)
Locator.EDGE_PRUNING = Locator.add(
    "edge-pruning",
    "locate.edges.edge_pruning:attribute",
    "masks on all edges learnt together, a slow reference",
    options=EdgePruning,
    per_pair=False,
    meaning=Meaning.SIZE,
)
Locator.EXACT = Locator.add(
    "exact", "locate.edges.exact:patch_edges", "one run an edge, without an estimate"
)
Locator.ACDC = Locator.add(
    "acdc",
    "locate.edges.acdc:search",
    "greedy removal by exact patching, which makes a circuit by itself",
    uses=("threshold",),
    per_pair=False,
    selects=True,
)
