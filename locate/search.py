"""What decides scores, a circuit and its evaluation, apart from the model and the pairs.

Command lines are made from these fields, so this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from circuits.base.choices import (
    Ablation,
    KeyValue,
    Meaning,
    Metric,
    Ranking,
    Rule,
    Selection,
)
from circuits.base.errors import OptionError
from circuits.base.idle import Idle
from circuits.base.options import Options, as_dict, build, changed, option, sources
from circuits.base.sizes import bytes_of
from locate.edges.locators import Locator

if TYPE_CHECKING:
    from circuits.facts.pairs import TokenPair
    from circuits.graph.circuit import Circuit
    from circuits.graph.scores import EdgeScores
    from circuits.model.model import Model
    from circuits.model.wiring import Wiring

S = TypeVar("S", bound="Scoring")
DEFAULT_EDGES = 200
DEFAULT_SHARE = 0.1
"""Where nothing says how many edges and nothing is measured: in small models a tenth of all."""
DEFAULT_FAITHFULNESS = 0.9
MOST_SEEDS = 2**63 - 1
_SIZES = ("faithfulness", "edges", "share", "threshold")


@dataclass(frozen=True)
class Scoring(Options):
    """What decides the scores of edges.

    `steps` and `rule` are EAP-IG's; EAP-GP takes the steps too. `spans` has each edge scored once a
    span of the prompt, as `circuits.facts.spans` names them. `memory`, in bytes or as 6GiB, bounds
    what some methods take beside the model; it decides the size of batches and no score. `options`
    are the options of a method that has a class of its own for them, as a value of that class or by
    name.
    """

    method: Locator = option(Locator.EAP_IG, "How edges get scores.")
    steps: int = option(5, "Points on the path of EAP-IG and EAP-GP.", low=1, high=1000)
    rule: Rule = option(Rule.MIDPOINT, "Where in each step EAP-IG looks.")
    metric: Metric = option(Metric.LOGIT_DIFFERENCE, "What counts as recalling the fact.")
    ablation: Ablation = option(Ablation.PATCH, "What replaces a cut edge.")
    kv: KeyValue = option(
        KeyValue.GROUPED, "One key and value input a key-value head, or one a query head."
    )
    spans: str | None = option(
        None,
        "Tell edges apart by where in the prompt they are: auto, or names with commas between, of "
        "subject, relation and the spans that the pairs name.",
        metavar="auto|NAME,NAME",
    )
    memory: str | int | None = option(
        None,
        "Bound of the memory that scoring takes beside the model, as 6GiB; takes smaller batches.",
        low=1,
        metavar="SIZE",
    )
    options: Any = option(
        None,
        "An option of the method's own, as step=0.3 of eap-gp; repeatable.",
        flags=("--option",),
        metavar="NAME=VALUE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "options", _own_options(self.method, self.options))
        if self.spans is not None:
            _check_spans(self.members, self.spans)
        if self.memory is not None:
            object.__setattr__(self, "memory", bytes_of("memory", self.memory))
            if not self.method.bounded:
                known = ", ".join(each for each in Locator if each.bounded)
                raise OptionError(f"`memory` bounds `method` {known}, not {self.method}")
        for member in self.members:
            if member.at_clean and self.metric.relative:
                raise OptionError(
                    f"{member} takes the gradient at the clean run, where {self.metric}, which "
                    "compares with the clean run, has none: every score would be 0; use `method` "
                    "eap-ig or another metric"
                )
            if not (member.per_pair or member.selects):
                self.metric.check_one_token(f"the method {member}")

    @classmethod
    def of(cls: type[S], scoring: S | None, values: Mapping[str, Any], **usual: Any) -> S:
        """The scoring with other values of some options; `usual` holds where none is given."""
        if scoring is None:
            return build(cls, {**usual, **values})
        return changed(scoring, values) if values else scoring

    def by(self: S, method: Locator | str) -> S:
        """The same by a method of no options of its own; itself where it is by that one."""
        method = Locator.of(method, "method")
        return self if self.method == method else replace(self, method=method, options=None)

    @property
    def members(self) -> list[Locator]:
        """The locators whose scores are asked for: an ensemble's members, else the method."""
        joined = self.method == Locator.ENSEMBLE
        return [Locator.of(name) for name in self.options.of] if joined else [self.method]

    @property
    def uses(self) -> tuple[str, ...]:
        """What the method uses besides metric, ablation and kv: of an ensemble, its members."""
        if self.method != Locator.ENSEMBLE:
            return self.method.uses
        read = {name for member in self.members for name in member.uses}
        return tuple(name for name in self.method.uses if name in read)

    def idle(self) -> tuple[Idle, ...]:
        """What says of a path how it is walked, for a method without one."""
        unused = tuple(name for name in ("steps", "rule") if name not in self.uses)
        return (Idle(f"with `method` {self.named}", unused),)

    @property
    def meaning(self) -> Meaning:
        """What the method's scores say, as its options have it."""
        return self.method.says(self.options)

    @property
    def named(self) -> str:
        """The method's name, of an ensemble with its members."""
        joined = self.method == Locator.ENSEMBLE
        return f"{self.method} of {','.join(self.options.of)}" if joined else str(self.method)

    def record(self) -> dict[str, Any]:
        """For provenance; options of a method only where it uses them."""
        names = ["method", "metric", "ablation", "kv", *self.uses]
        own = {each.name for each in fields(Scoring)}
        plain = as_dict(self)
        found = {name: plain[name] for name in names if name in own}
        found |= sources(self)
        found |= {} if self.spans is None else {"spans": self.spans}
        return found if self.options is None else {**found, "options": plain["options"]}

    def wiring(self, model: Model, pairs: Sequence[TokenPair]) -> Wiring:
        """The edges that get scores: the model's, once a span where spans are told apart.

        OptionError where the pairs have none of these spans.
        """
        wiring = model.wiring(self.kv)
        if self.spans is None:
            return wiring
        from circuits.facts.spans import named_spans

        return wiring.with_spans(named_spans(pairs, self.spans))


@dataclass(frozen=True)
class Search(Scoring):
    """Everything that decides the circuit and its evaluation, apart from model and pairs.

    `edges` counts before pruning. With ACDC `threshold` is its tau and `edges` an upper bound: the
    edges whose removal costs most are kept. `resamples` needs enough facts and does nothing for a
    method that gives no scores of single pairs, such as ACDC.
    """

    selection: Selection = option(
        Selection.TOP,
        "The best edges, or the best from the logits backwards (greedy).",
        flags=("--select",),
    )
    ranking: Ranking = option(
        Ranking.ABSOLUTE,
        "Rank edges by |score|, or by score (supporting ones first).",
        flags=("--rank",),
    )
    faithfulness: float | None = option(
        None,
        "The smallest circuit that reaches this on the pairs that find it; discover: 0.9.",
        above=0,
        high=1,
    )
    edges: int | None = option(
        None,
        "Edges to select; where nothing is measured 200, at most a tenth of all.",
        low=1,
        flags=("--edges", "-n"),
    )
    share: float | None = option(None, "Edges to select, as a share of all.", above=0, high=1)
    threshold: float | None = option(
        None, "Select edges whose score is at least this (ACDC: tau).", low=0
    )
    resamples: int = option(
        200, "Resamples for inclusion frequencies; 0: off.", low=0, high=100_000
    )
    n_random: int = option(
        5, "Random circuits to compare with.", low=0, high=1000, flags=("--random",)
    )
    curve: bool = option(False, "Faithfulness of ten sizes, with CMD, or CPR of signed ranking.")
    roles: bool = option(False, "Label mover, relation and mixture heads.")
    batch_size: int = option(
        16, "Pairs a pass.", low=1, high=1_000_000, flags=("--batch-size", "-b")
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = [f"`{name}`" for name in _SIZES if getattr(self, name) is not None]
        if len(sizes) > 1:
            raise OptionError(f"{' and '.join(sizes)} exclude each other: give one of them")
        if self.method.selects and (self.share is not None or self.faithfulness is not None):
            raise OptionError(
                f"{self.method} selects edges itself: {sizes[0]} goes with other methods; it takes "
                "`threshold` or `edges`"
            )
        if self.selection == Selection.THRESHOLD and self.threshold is None:
            raise OptionError("`selection` threshold needs `threshold`")
        if self.selection == Selection.GREEDY and self.threshold is not None:
            raise OptionError(
                "`selection` greedy takes `edges`; `threshold` goes with `selection` top"
            )
        if self.curve and self.method.selects:
            raise OptionError(
                f"{self.method} selects edges itself, so it has no circuits of ten sizes: `curve` "
                "goes with other methods"
            )
        if self.selection == Selection.GREEDY and self.method.selects:
            raise OptionError(
                f"{self.method} selects edges itself: `selection` greedy goes with other methods"
            )

    def idle(self) -> tuple[Idle, ...]:
        """Besides, how edges are selected where the method does it, and resamples of no pairs."""
        method = self.method
        unused: tuple[str, ...] = () if method.per_pair else ("resamples",)
        if method.selects:
            unused += ("selection", "ranking")
        return (*super().idle(), Idle(f"with `method` {method}", unused))

    def measured(self) -> Search:
        """This search; where it says no size, one for the smallest circuit that is faithful."""
        sized = any(getattr(self, name) is not None for name in _SIZES)
        if sized or self.method.selects:
            return self
        return replace(self, faithfulness=DEFAULT_FAITHFULNESS)

    def of_size(self, n: int) -> Search:
        """The same search for n edges; those above a threshold are the best ones, too."""
        best = Selection.TOP if self.selection == Selection.THRESHOLD else self.selection
        return replace(self, edges=n, share=None, threshold=None, faithfulness=None, selection=best)

    def n_edges(self, wiring: Wiring) -> int:
        """Edges to select; OptionError where the model has fewer."""
        if self.share is not None:
            return max(1, round(self.share * wiring.n_edges))
        if self.edges is None:
            return min(DEFAULT_EDGES, max(1, int(DEFAULT_SHARE * wiring.n_edges)))
        if self.edges > wiring.n_edges:
            raise OptionError(
                f"`edges` {self.edges} is more than the {wiring.n_edges} edges of a model of "
                f"{wiring.describe()}"
            )
        return self.edges

    def selected(self, scores: EdgeScores) -> Circuit:
        """The selection and pruning that this search asks for; OptionError where runs decide it."""
        from circuits.graph.select import select

        if self.faithfulness is not None:
            raise OptionError(
                "`faithfulness` sets the size of one circuit that is found and measured; give "
                "`edges`, `share` or `threshold` here"
            )
        if self.threshold is not None:
            return select(scores, Selection.THRESHOLD, t=self.threshold, by=self.ranking)
        n = self.n_edges(scores.wiring)
        return select(scores, self.selection, n, by=self.ranking)


def with_each(scoring: S, methods: Iterable[Locator | str]) -> tuple[list[S], list[str]]:
    """The scoring with each of these methods; of those it does not go with, why."""
    found, left_out = list[S](), list[str]()
    for method in [Locator.of(each, "methods") for each in methods]:
        try:
            found.append(replace(scoring, method=method))
        except OptionError as error:
            left_out.append(str(error))
    return found, left_out


def _check_spans(members: Iterable[Locator], asked: str) -> None:
    """OptionError where spans have no such names, or where a locator cannot tell them apart."""
    from circuits.facts.spans import AUTO, asked_names

    if asked != AUTO:
        asked_names(asked)
    for member in members:
        if not member.spans:
            known = ", ".join(each for each in Locator if each.spans)
            raise OptionError(f"`spans` are told apart by `method` {known}, not by {member}")


def _own_options(method: Locator, given: Any) -> Any:
    """The options of a method that has a class for them; OptionError where they do not fit it."""
    kind = method.options
    if kind is None:
        if given:
            raise OptionError(f"the method {method} has no options of its own")
        return None
    if isinstance(given, kind):
        return given
    if given is None or isinstance(given, Mapping):
        return build(kind, given or {}, str(method))
    raise OptionError(f"the options of {method} are a {kind.__name__} or its values by name")
