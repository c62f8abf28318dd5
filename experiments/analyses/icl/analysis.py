"""In-context learning: which heads come in when examples stand before the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuits.base.choices import Ablation, Metric
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, enough, percentiles, shares_drawn
from circuits.base.options import Options, option
from circuits.facts.demonstrations import Style
from circuits.graph.ablation import SourceConstants, source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.overlap import jaccard, node_jaccard
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model
from circuits.model.wiring import head_site, node_kind
from experiments.analyses.engine.base import Analysis, Part, SkipError
from experiments.analyses.engine.claims import FEWEST as FEWEST_VALUES
from experiments.analyses.engine.claims import average, widened
from experiments.analyses.engine.context import Context
from experiments.analyses.icl.prompts import Shot, ask, shots_of
from experiments.analyses.icl.report import report
from locate.edges.eap import attribute
from locate.heads.induction import even_score, induction_scores
from locate.heads.silence import Head, without_heads
from locate.heads.span_attention import attention_to_spans
from locate.search import Scoring, Search

FEWEST = 4
FEWEST_RESAMPLES = 20
"""Facts that each half needs at least."""


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    relations: tuple[str, ...] = option((), "relations to look at; none named: all", selects=True)
    most: int = option(
        12, "relations drawn at random where none is named; 0: all", selects=True, low=0
    )
    styles: tuple[Style, ...] = option(
        (Style.LIST, Style.SENTENCE), "list (`France: Paris.`), sentence (the question's wording)"
    )
    counts: tuple[int, ...] = option((0, 1, 2, 5), "examples before the question", low=0)
    compare: int = option(2, "examples with which circuits are compared to those without", low=1)
    facts: int = option(
        16, "facts a relation and style; one half finds circuits, one tests heads", low=1
    )
    held_out: bool = option(True, "sentences in a wording that no model here was trained on")
    edges: int | None = option(None, "edges to select; none: 200, at most a tenth of all", low=1)
    steps: int = option(3, "integration steps of EAP-IG", low=1)
    ablation: Ablation = option(
        Ablation.MEAN, "what cut edges and silenced heads carry: mean, zero"
    )
    draws: int = option(20, "random sets of as many heads", low=1)
    resamples: int = option(
        100, "resamples of a relation's facts, for how many heads the examples bring in", low=0
    )
    known_only: bool = option(True, "circuits of facts that are right after the examples only")

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.resamples < FEWEST_RESAMPLES:
            raise OptionError(
                f"of {self.resamples} resamples there is no interval: {FEWEST_RESAMPLES} are the "
                "fewest, or 0 for none"
            )


def steps(context: Context, config: Config) -> Sequence[str]:
    """The relations."""
    if config.ablation == Ablation.PATCH:
        raise OptionError(
            "both prompts of a pair have the same examples, so patching cannot cut them: "
            "ablation is mean or zero"
        )
    if min(config.counts, default=0) < 0 or config.compare < 1:
        raise OptionError("counts are numbers of examples, and compare is at least 1")
    return context.names(config.relations, config.most)


def compute(context: Context, config: Config, key: str) -> Part:
    """One relation in every style; `None` for a style in which too few facts can be asked."""
    found = {str(style): _in_style(context, config, key, style) for style in config.styles}
    if not any(found.values()):
        raise SkipError(f"{key}: too few facts can be asked after examples")
    return found


def _in_style(context: Context, config: Config, key: str, style: Style) -> dict[str, Any] | None:
    model, relation = context.model, context.relations[key]
    wordings = (relation.held_out if config.held_out else ()) or relation.templates
    if not wordings and style == Style.SENTENCE:
        return None
    wording = wordings[0] if wordings else ""
    counts = tuple(sorted({0, *config.counts, config.compare}))
    asked = (model, relation, wording, style, counts)
    n_tested = config.facts // 2
    testing = shots_of(*asked, n_tested, context.seed)
    tested = {each[0].fact.subject for each in testing}
    finding = shots_of(*asked, config.facts - n_tested, context.seed, avoid=tested)
    facts = [*finding, *testing]
    if not facts:
        return None
    size = context.batch_size
    replies = {count: ask(model, [each[count] for each in facts], size) for count in counts}
    found: dict[str, Any] = {
        "example": facts[0][config.compare].asked.text,
        "counts": list(counts),
        "right": {count: each.right[0].astype(float) for count, each in replies.items()},
        "probability": {count: each.probability[0] for count, each in replies.items()},
        "heads": None,
    }
    known = replies[config.compare].right[0] | (not config.known_only)
    halves = [
        [each for each, right in zip(half, said, strict=True) if right]
        for half, said in ((finding, known[: len(finding)]), (testing, known[len(finding) :]))
    ]
    if min(map(len, halves)) >= FEWEST:
        found["heads"] = _Heads(context, config, *halves).numbers()
    return found


class _Heads:
    """Circuits with and without examples, found on one half of the facts; heads on the other."""

    def __init__(
        self,
        context: Context,
        config: Config,
        finding: Sequence[dict[int, Shot]],
        testing: Sequence[dict[int, Shot]],
    ) -> None:
        self.context, self.config = context, config
        self.model: Model = context.model
        self.finding, self.testing = finding, testing
        sides = (finding, config.compare), (finding, 0), (testing, 0)
        self.scores = [self._scores(facts, count) for facts, count in sides]
        selected = [self._circuit(scores) for scores in self.scores]
        self.with_, self.without, self.again = selected
        own, plain = heads_of(self.with_), heads_of(self.without)
        self.new = [head for head in own if head not in set(plain)]
        self.old = [head for head in own if head in set(plain)]
        every = [
            (at, head) for at in range(self.model.n_layers) for head in range(self.model.n_heads)
        ]
        self.grown = self._grown(len(self.new))
        self.others = [head for head in every if head not in set(self.new)]

    def numbers(self) -> dict[str, Any]:
        """Everything about the heads that are new with examples."""
        by_chance = set(heads_of(self.again)) - set(heads_of(self.without))
        tested = [each[self.config.compare] for each in self.testing]
        attention, more = self._attention(tested)
        return {
            "new": [name_of(head) for head in self.new],
            "kept": [name_of(head) for head in self.old],
            "grown": [name_of(head) for head in self.grown],
            "new_by_chance": len(by_chance),
            "brought_in": self._resampled(len(self.new) - len(by_chance)),
            "edges": {"with": self.with_.n_edges, "without": self.without.n_edges},
            "jaccard": jaccard(self.with_, self.without),
            "node_jaccard": node_jaccard(self.with_, self.without),
            "floor": jaccard(self.without, self.again),
            "node_floor": node_jaccard(self.without, self.again),
            "with_examples": self._silenced(tested),
            "without_examples": self._silenced([each[0] for each in self.testing]),
            "attention": attention,
            "attend_more": more,
            "induction": self._induction(),
        }

    def _scores(self, facts: Sequence[dict[int, Shot]], count: int) -> EdgeScores:
        config = self.config
        options = Scoring(
            steps=config.steps, metric=Metric.LOG_PROBABILITY, ablation=config.ablation
        )
        pairs = [each[count].pair for each in facts]
        size = self.context.batch_size
        return attribute(self.model, pairs, options, batch_size=size, keep_pairs=True)

    def _circuit(self, scores: EdgeScores) -> Circuit:
        return Search(edges=self.config.edges).selected(scores)

    def _resampled(self, brought_in: int) -> Interval:
        """How many more heads are new than by chance, with an interval over the facts.

        The facts of both halves are resampled, those of the first alike with and without examples.
        Circuits of resamples differ more from each other than those of the facts do, by chance
        above all, so that resamples lie lower: they give the width, and stand around the value.
        """
        n_facts = min(len(self.finding), len(self.testing))
        undefined = Interval(brought_in, np.nan, np.nan)
        if not enough(n_facts, FEWEST_VALUES) or not self.config.resamples:
            return undefined
        seed, draws = self.context.seed, self.config.resamples
        first = shares_drawn(np.arange(len(self.finding)), draws, seed)
        second = shares_drawn(np.arange(len(self.testing)), draws, seed + 1)
        found = []
        for shares in zip(first, first, second, strict=True):
            drawn = [
                replace(scores, values=(share @ scores.per_pair).astype(np.float32), per_pair=None)
                for scores, share in zip(self.scores, shares, strict=True)
            ]
            own, plain, again = (set(heads_of(self._circuit(scores))) for scores in drawn)
            found.append(len(own - plain) - len(again - plain))
        around = np.array(found) - np.mean(found) + brought_in
        return percentiles(brought_in, around.tolist(), widened(n_facts))

    def _grown(self, n: int) -> list[Head]:
        """The heads whose part in all heads' score mass grows most with examples."""
        shares = [_head_mass(circuit) for circuit in (self.with_, self.without)]
        growth = {head: mass - shares[1][head] for head, mass in shares[0].items()}
        return sorted(growth, key=lambda head: (-growth[head], head))[:n]

    def _silenced(self, shots: Sequence[Shot]) -> dict[str, Any]:
        """Right answers and probabilities by fact, with different heads silenced.

        `whole` has none silenced, `new` the new ones, `grown` as many whose score grew most.
        `random` are drawn from all heads that are not new, `circuit` from the other heads of the
        circuit with examples (as many as there are, at most).
        """
        generator = np.random.default_rng(self.context.seed)
        n, draws = len(self.new), self.config.draws
        pools = {"random": self.others, "circuit": self.old}
        sets: list[list[Head]] = [[], self.new, self.grown]
        for heads in pools.values():
            sets += [_drawn(heads, n, generator) for _ in range(draws)]
        constants = self._constants([shot.pair for shot in shots])
        replies = without_heads(
            self.model,
            [shot.prompt for shot in shots],
            sets,
            [shot.answer for shot in shots],
            constants,
            batch_size=self.context.batch_size,
        )
        found: dict[str, Any] = {}
        for name, values in (("right", replies.right), ("probability", replies.probability)):
            rows = values.astype(float)
            found[name] = {"whole": rows[0], "new": rows[1], "grown": rows[2]}
            for place, pool in enumerate(pools):
                start = 3 + place * draws
                found[name][pool] = rows[start : start + draws].mean(0)
        return found

    def _constants(self, pairs: Any) -> SourceConstants:
        return source_constants(self.model, pairs, self.config.ablation, self.context.batch_size)

    def _attention(self, shots: Sequence[Shot]) -> tuple[dict[str, Any], Interval]:
        """Mean share of attention on each span, by group of heads; None for an empty group.

        With by how much the new heads' is above that of the circuit's others on the examples.
        """
        spans = [shot.asked.spans(shot.prompt) for shot in shots]
        shares = attention_to_spans(
            self.model,
            [shot.prompt for shot in shots],
            spans,
            batch_size=self.context.batch_size,
        )
        groups = {"new": self.new, "circuit": self.old, "others": self.others}
        found: dict[str, Any] = {
            span: {
                group: _mean_of(values.mean(0, dtype=float), heads)
                for group, heads in groups.items()
            }
            for span, values in shares.items()
        }
        by_fact = [
            [_mean_of(each, heads) for heads in (self.new, self.old)] for each in shares["examples"]
        ]
        more = [new - old for new, old in by_fact if new is not None and old is not None]
        return found, average(more, seed=self.context.seed)

    def _induction(self) -> dict[str, Any]:
        """Mean induction score by group of heads, and the highest one of any head."""
        scores = induction_scores(self.model, seed=self.context.seed)
        best = np.unravel_index(int(scores.argmax()), scores.shape)
        return {
            "new": _mean_of(scores, self.new),
            "circuit": _mean_of(scores, self.old),
            "others": _mean_of(scores, self.others),
            "even": even_score(self.model),
            "best": name_of((int(best[0]), int(best[1]))),
            "best_score": float(scores.max()),
            "scores": {name_of(head): float(scores[head]) for head in self.new},
        }


def heads_of(circuit: Circuit) -> list[Head]:
    """The attention heads that an edge of the circuit touches."""
    return [head_site(name) for name in circuit.nodes() if node_kind(name) == "head"]


def name_of(head: Head) -> str:
    """`a5.h3`."""
    return f"a{head[0]}.h{head[1]}"


def _head_mass(circuit: Circuit) -> dict[Head, float]:
    """Each head's share of the |score| on all edges that leave a head."""
    scores, wiring = circuit.scores, circuit.wiring
    assert scores is not None, "a circuit that was selected has its scores"
    mass = np.bincount(wiring.edge_src, np.abs(scores.values).astype(float), wiring.n_src)
    heads = {
        head_site(name): float(mass[src])
        for src, name in enumerate(wiring.src_names)
        if node_kind(name) == "head"
    }
    total = sum(heads.values()) or 1.0
    return {head: value / total for head, value in heads.items()}


def _drawn(pool: Sequence[Head], n: int, generator: np.random.Generator) -> list[Head]:
    chosen = generator.choice(len(pool), min(n, len(pool)), replace=False)
    return [pool[place] for place in chosen.tolist()]


def _mean_of(values: np.ndarray, heads: Sequence[Head]) -> float | None:
    return float(np.mean([values[head] for head in heads])) if heads else None


ANALYSIS = Analysis(
    name="icl",
    title="What examples in the prompt add to a circuit",
    question="Which heads does a circuit gain when examples stand before the question, and do "
    "they matter?",
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    paired=False,
    version=4,
)
