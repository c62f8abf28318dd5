"""Two hops: how much of a two-hop question's circuit lies in the circuits of its hops."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from operator import or_
from typing import Any

import numpy as np

from circuits.base.errors import NothingFoundError, PromptError
from circuits.base.options import Options, option
from circuits.facts.facts import Relation
from circuits.facts.knowledge import in_best_words, known_facts
from circuits.facts.pairs import TokenPair
from circuits.facts.wordings import wordings
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.overlap import overlap
from circuits.graph.select import random_circuit
from experiments.analyses.engine.asking import last_logits
from experiments.analyses.engine.base import Analysis, Part, SkipError
from experiments.analyses.engine.context import Context
from experiments.analyses.multihop.prompts import (
    Asking,
    Chain,
    Form,
    TwoHops,
    chains_of,
    halves_of,
    pairs_of,
    reversed_facts,
    reversed_wording,
    shown_of,
    two_hops,
    wording,
)
from experiments.analyses.multihop.report import REVERSAL, report
from locate.examples import Examples
from locate.search import Search
from locate.seen import subjects_of

FEWEST = 6
"""Pairs that a circuit of a question needs at least."""
SHOWN_RANDOM = 5
"""Random circuits that are run on the questions; overlap is cheaper and takes all draws."""


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    chains: tuple[str, ...] = option(
        (), "chains as `first > second`; none named: all", selects=True
    )
    most: int = option(6, "chains drawn at random where none is named; 0: all", selects=True, low=0)
    reversals: int = option(
        6, "relations also asked backwards, drawn at random", selects=True, low=0
    )
    forms: tuple[Form, ...] = option(
        (Form.NESTED, Form.FOLLOW, Form.WRITTEN), "nested, follow (by a pronoun), written out"
    )
    pairs: int = option(16, "prompt pairs for a circuit", low=1)
    edges: int | None = option(None, "edges to select; none: 200, at most a tenth of all", low=1)
    steps: int = option(5, "integration steps of EAP-IG", low=1)
    draws: int = option(20, "random circuits of the same size", low=1)
    unrelated: int = option(5, "other relations whose circuits are held against the hops'", low=0)


def steps(context: Context, config: Config) -> Sequence[str]:
    """Chains, then relations asked backwards; PromptError where there are neither."""
    names = [chain.name for chain in chains_of(context.relations)]
    generator = random.Random(f"{context.seed}/chains")
    if config.chains:
        unknown = [name for name in config.chains if name not in names]
        if unknown:
            raise PromptError(f"there is no chain {unknown[0]!r}; there are {', '.join(names)}")
        names = list(config.chains)
    elif config.most and len(names) > config.most:
        names = generator.sample(names, config.most)
    backwards = [name for name in wordings().reversed if name in context.relations]
    generator.shuffle(backwards)
    if not names and not backwards:
        raise PromptError(
            "two hops are asked of relations of the atlas, by name, where the objects of one are "
            f"the subjects of another ({', '.join(wordings().phrases)}); these facts have none"
        )
    return [*names, *(f"{REVERSAL}{name}" for name in backwards[: config.reversals])]


def compute(context: Context, config: Config, key: str) -> Part:
    """One chain in all forms, or one relation backwards."""
    if key.startswith(REVERSAL):
        return _Chained(context, config).backwards(key.removeprefix(REVERSAL))
    chain = next(each for each in chains_of(context.relations) if each.name == key)
    return _Chained(context, config).forward(chain)


class _Chained:
    """The circuits of one run, with its controls."""

    def __init__(self, context: Context, config: Config) -> None:
        self.context, self.config = context, config
        self.model = context.model
        self.search = Search(edges=config.edges, steps=config.steps)

    def forward(self, chain: Chain) -> dict[str, Any]:
        """A chain in all forms; an answer is the accepted one that the model does best on."""
        first, second = map(self.context.worded, (chain.first.name, chain.second.name))
        second = in_best_words(self.model, second, second.templates[0])
        chain = replace(chain, first=first, second=second)
        known = {each.name: self._known(each) for each in (chain.first, chain.second)}
        facts = two_hops(chain, lambda relation, subject: subject in known[relation.name])
        everything = two_hops(chain, lambda relation, subject: True)
        shown, facts = shown_of(everything, facts, self.context.shots, self.context.seed)
        finding, testing = halves_of(facts, self.context.seed)
        tested = {name for hop in testing for name in (hop.subject, hop.bridge)}
        hops = [self._hop(name, tested) for name in (chain.first.name, chain.second.name)]
        unrelated = self._unrelated([chain.first, chain.second])
        forms = {}
        for form in self.config.forms:

            def text(hop: TwoHops, form: Form = form) -> str | None:
                return wording(chain, form, hop)

            forms[str(form)] = self._looked_at(
                f"{chain.name} {form}", finding, testing, Asking(text, shown), hops, unrelated
            )
        if not any(forms.values()):
            raise SkipError(f"{chain.name}: too few facts meet, or none can be paired")
        return {"facts": len(facts), "forms": forms}

    def backwards(self, name: str) -> dict[str, Any]:
        """A relation from its objects back to its subjects."""
        relation = self.context.worded(name)
        known = self._known(relation)
        everything = reversed_facts(relation)
        facts = [hop for hop in everything if hop.answer in known]
        shown, facts = shown_of(everything, facts, self.context.shots, self.context.seed)
        finding, testing = halves_of(facts, self.context.seed)
        found = self._looked_at(
            f"{name} backwards",
            finding,
            testing,
            Asking(lambda hop: reversed_wording(relation, hop), shown),
            [self._hop(name, {hop.answer for hop in testing})],
            self._unrelated([relation]),
        )
        if found is None:
            raise SkipError(f"{name}: too few facts can be asked backwards")
        return {"facts": len(facts), "forms": {"backwards": found}}

    def _looked_at(
        self,
        name: str,
        finding_facts: Sequence[TwoHops],
        testing_facts: Sequence[TwoHops],
        asking: Asking,
        hops: Sequence[Circuit],
        unrelated: Sequence[Circuit],
    ) -> dict[str, Any] | None:
        """One question's circuit beside those of its hops; None where it cannot be asked.

        Partners of prompts are of the prompt's own half.
        """
        finding, again = (
            pairs_of(self.model, facts, asking, self.context.seed)[: self.config.pairs]
            for facts in (finding_facts, testing_facts)
        )
        if min(len(finding), len(again)) < FEWEST:
            return None
        pairs = [*finding, *again]
        own, other = (
            self.context.circuit(name, search=self.search, examples=Examples(name, tuple(side)))
            for side in (finding, again)
        )
        return {
            "example": pairs[0].text.clean[pairs[0].text.start :],
            **self._answers(pairs),
            "pairs": len(finding),
            "edges": own.n_edges,
            "hops": _shares(own, hops),
            "again": _shares(own, [other]),
            "random": self._random(own, [hop.n_edges for hop in hops]),
            "unrelated": self._mean(own, hops, unrelated),
            "function": self._function(again, own, hops, unrelated),
        }

    def _answers(self, pairs: Sequence[TokenPair]) -> dict[str, Any]:
        """Which answers are right, and how often they would be by saying another fact's answer."""
        prompts = [pair.clean for pair in pairs]
        said = last_logits(self.model, prompts, self.context.batch_size).argmax(-1).numpy()
        answers = np.array([pair.answer for pair in pairs])
        same = said[:, None] == answers[None, :]
        chance = (same.sum() - same.trace()) / max(1, len(pairs) * (len(pairs) - 1))
        return {"right": (said == answers).astype(float), "chance": float(chance)}

    def _random(self, own: Circuit, sizes: Sequence[int]) -> dict[str, Any]:
        """The mean overlap with random circuits of the hops' sizes."""
        generator = np.random.default_rng(self.context.seed)
        drawn = [
            _shares(own, [random_circuit(own.wiring, size, generator) for size in sizes])
            for _ in range(self.config.draws)
        ]
        return {name: float(np.mean([each[name] for each in drawn])) for name in ("nodes", "edges")}

    def _mean(
        self, own: Circuit, hops: Sequence[Circuit], others: Sequence[Circuit]
    ) -> dict[str, Any]:
        """The mean overlap with the circuits of as many unrelated relations, at the hops' size."""
        found = [_shares(own, [each]) for each in _unions(others, hops)]
        if not found:
            return {"nodes": None, "edges": None}
        return {name: float(np.mean([each[name] for each in found])) for name in ("nodes", "edges")}

    def _function(
        self,
        pairs: Sequence[TokenPair],
        own: Circuit,
        hops: Sequence[Circuit],
        unrelated: Sequence[Circuit],
    ) -> dict[str, Any]:
        """Faithfulness on other facts' questions: own circuit, the hops', unrelated, random ones.

        Undefined numbers are null: where the model itself does not tell the answers apart.
        """
        union = reduce(or_, hops)
        beside = _unions(unrelated, hops)[:SHOWN_RANDOM]
        generator = np.random.default_rng(self.context.seed)
        drawn = [random_circuit(own.wiring, union.n_edges, generator) for _ in range(SHOWN_RANDOM)]
        runs = run_circuits(
            self.model,
            pairs,
            [own, union, *beside, *drawn],
            batch_size=self.context.batch_size,
        )
        values = [
            runs.faithfulness(index, 0).value for index in range(2 + len(beside) + len(drawn))
        ]
        split = 2 + len(beside)
        return {
            "whole": float(runs.model.metric.mean()),
            "empty": float(runs.empty.metric.mean()),
            "own": values[0],
            "hops": values[1],
            "unrelated": float(np.mean(values[2:split])) if beside else None,
            "random": float(np.mean(values[split:])),
        }

    def _known(self, relation: Relation) -> set[str]:
        """Subjects of which the model knows the object, in the first wording that is asked in."""
        check = known_facts(
            self.model,
            relation,
            relation.templates[:1],
            known=self.context.known,
            shots=self.context.shots,
            seed=self.context.seed,
        )
        return {question.fact.subject for question in check.known}

    def _of(self, name: str) -> Circuit:
        return self.context.circuit(name, self.config.pairs, self.search)

    def _hop(self, name: str, tested: Collection[str]) -> Circuit:
        """The circuit of a single hop, found on facts about none of the tested subjects."""
        made = self.context.examples(name)
        pairs = [
            pair
            for pair in (*made.pairs, *made.held_out)
            if subjects_of(pair.text).isdisjoint(tested)
        ][: self.config.pairs]
        if len(pairs) < FEWEST:
            raise SkipError(f"{name}: too few facts are left that do not test")
        return self.context.circuit(name, search=self.search, examples=Examples(name, tuple(pairs)))

    def _unrelated(self, relations: Sequence[Relation]) -> list[Circuit]:
        """Circuits of relations about other kinds of subjects, the same few throughout a run."""
        names = list(self.context.relations)
        random.Random(f"{self.context.seed}/unrelated").shuffle(names)
        kinds = {relation.kind for relation in relations}
        found: list[Circuit] = []
        for name in names:
            if len(found) == self.config.unrelated:
                break
            if self.context.relations[name].kind in kinds:
                continue
            try:
                found.append(self._of(name))
            except (PromptError, NothingFoundError):  # known too little, or a circuit of no edge
                continue
        return found


def _unions(others: Sequence[Circuit], hops: Sequence[Circuit]) -> list[Circuit]:
    """Every choice of as many circuits as there are hops, together as large as the hops are.

    Of each choice the edges are taken that have the largest share of |score| in any of its
    circuits, so that size is no reason for an overlap.
    """
    size = reduce(or_, hops).n_edges
    return [strongest(chosen, size) for chosen in combinations(others, len(hops))]


def strongest(circuits: Sequence[Circuit], n: int) -> Circuit:
    """The n edges with the largest share of |score| in any of the circuits, unpruned."""
    shares = []
    for circuit in circuits:
        assert circuit.scores is not None, "a circuit that was found has its scores"
        values = np.abs(circuit.scores.values).astype(float)
        shares.append(values / (values.sum() or 1.0))
    kept = np.zeros(circuits[0].wiring.n_edges, dtype=bool)
    kept[np.argsort(-np.max(shares, 0), kind="stable")[:n]] = True
    return Circuit(circuits[0].wiring, kept)


def _shares(own: Circuit, others: Sequence[Circuit]) -> dict[str, Any]:
    """Shares of the circuit that the others hold together, and each of them."""
    found = overlap(own, list(others))
    return {
        "nodes": found.nodes,
        "edges": found.edges,
        "each_nodes": list(found.hop_nodes),
        "each_edges": list(found.hop_edges),
    }


ANALYSIS = Analysis(
    name="multihop",
    title="Two hops, and the circuits of each",
    question="How much of a two-hop question's circuit lies in the circuits of its single hops?",
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=4,
)
