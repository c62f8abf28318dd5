"""The methods that score edges, as values by name; imports no torch.

Users add their own: `Locator.add("mine", function, options=Mine)`, or the function itself given as
the method of a `Scoring`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from circuits.base.choices import Open


class Locator(Open):
    """How edges get scores: a function

        (model, pairs, scoring, *, batch_size, keep_pairs, progress) -> EdgeScores

    whose result holds the scores of single pairs where `keep_pairs` asks for them. `options` is the
    class of the method's own options, given to it as `scoring.options`. Traits: it `uses` these
    fields of a `Scoring` besides metric, ablation and kv; it can score single pairs (`per_pair`);
    it `selects` edges itself, is called with the whole `Search` and returns a `Circuit`; it takes
    its gradient `at_clean` only, where a metric relative to the clean run has none; it is `bounded`
    by `scoring.memory`.
    """

    options: type[Any] | None = None
    uses: tuple[str, ...] = ()
    per_pair: bool = True
    selects: bool = False
    at_clean: bool = False
    bounded: bool = False

    EAP: ClassVar[Locator]
    EAP_IG: ClassVar[Locator]
    EXACT: ClassVar[Locator]
    ACDC: ClassVar[Locator]


Locator.EAP = Locator.add(
    "eap", "locate.edges.eap:attribute", "gradient at the clean run", at_clean=True, bounded=True
)
Locator.EAP_IG = Locator.add(
    "eap-ig",
    "locate.edges.eap:attribute",
    "gradient averaged along the path of the embedding",
    uses=("steps", "rule"),
    bounded=True,
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
