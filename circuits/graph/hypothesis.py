"""Is it the circuit? Tests of what a circuit is claimed to be, each at a level of 5 %.

Null hypotheses (Shi et al. 2024, *Hypothesis Testing the Circuit Hypothesis in LLMs*,
arXiv:2410.13032, whose numbers for margin and quantile these are):

- *equivalence*: on a new fact circuit and whole model have an even chance, 40 to 60 %, that the
  metric is higher in the one or the other. A sign test; facts on which both are equal are left
  out.
- *independence*: what all edges outside the circuit add to the metric of nothing kept does not go
  with the whole model's metric from fact to fact, however much it is. A permutation test of HSIC.
  *independence, published* takes the metric outside the circuit as it is; but with patching the
  corrupted prompt's metric, which depends on answer and foil, goes with the clean one's already
  where nothing at all is kept.
- *minimality*: every edge of the circuit matters more than nine in ten random edges. Mattering is
  how far the mean metric moves without the edge; a random edge is taken out of the circuit with a
  random path added to it. A binomial test an edge, and Holm's correction over all edges.
- *size*: the circuit is nearer to the whole model, in mean metric, than at most nine in ten random
  connected circuits of as many edges. A binomial test.
- *shape*: the same against circuits of its own shape, with the heads of each layer exchanged at
  random. They keep its MLPs and layers, so that this asks about the heads alone.

Those up to minimality are what an ideal circuit fulfils, so that a rejection speaks against the
circuit and no rejection is no proof; the last two are what chance would do, and a rejection speaks
for it. Pairs that ask the same fact are averaged first. Equivalence and independence count facts,
and are about facts like these; minimality, size and shape hold the facts fixed and count random
edges or circuits, so that they are about these facts alone. The pairs must be others than those
that found the circuit (`locate.evaluate` sees to it), or the tests are too kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.choices import Ablation, Metric, MetricLike
from circuits.base.display import Shown, Summary
from circuits.base.errors import NothingFoundError, OptionError
from circuits.facts.pairs import TokenPair
from circuits.graph.chance import inflated, same_shape, without
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import UNDEFINED_BELOW, Runs, run_circuits
from circuits.graph.noise import sample_of
from circuits.graph.select import random_circuit
from circuits.graph.testing import (
    MARGIN,
    QUANTILE,
    dependence,
    fewer_p,
    holm,
    least_uneven,
    more_p,
    uneven_p,
)
from circuits.model.holding import alone
from circuits.model.model import Model

LEVEL = 0.05
"""Rejected below this p: so often at most where the null hypothesis holds."""
FEWEST_DRAWS = 29
"""Random circuits of which a test against nine in ten can reject at all."""
PERMUTATIONS = 999
LITTLE = 0.05
"""A faithfulness nearer to 0 is called little."""


@dataclass(frozen=True)
class CircuitTest:
    """One test: its null hypothesis in words, p (NaN: not defined), and what follows in words.

    `statistic` is the share of facts (equivalence) or of random ones beaten (size, shape), HSIC, or
    how many edges are rejected (minimality); `n` counts the facts, edges or draws.
    """

    name: str
    null: str
    statistic: float
    p: float
    n: int
    sentence: str

    @property
    def rejected(self) -> bool:
        """Whether the null hypothesis is rejected at the level."""
        return bool(self.p <= LEVEL)

    @property
    def verdict(self) -> str:
        """`rejected`, `not rejected` or `undefined`."""
        if not np.isfinite(self.p):
            return "undefined"
        return "rejected" if self.rejected else "not rejected"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: null where a number is undefined."""
        numbers = {"statistic": self.statistic, "p": self.p}
        return {
            "null": self.null,
            **{name: x if np.isfinite(x) else None for name, x in numbers.items()},
            "n": self.n,
            "verdict": self.verdict,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, eq=False)
class CircuitTests(Shown):
    """All tests of a circuit on pairs that did not find it.

    `effects` is how far the mean metric moves without each kept edge, `random_effects` the same of
    random edges, `edge_p` Holm's adjusted p of each kept edge; edges in canonical order.
    """

    n_pairs: int
    n_facts: int
    draws: int
    tests: tuple[CircuitTest, ...]
    edges: tuple[str, ...]
    effects: Float[np.ndarray, " kept_edge"]
    edge_p: Float[np.ndarray, " kept_edge"]
    random_effects: Float[np.ndarray, " draw"]

    def __getitem__(self, name: str) -> CircuitTest:
        """One test by its name; OptionError where there is no such test."""
        for test in self.tests:
            if test.name == name:
                return test
        names = ", ".join(test.name for test in self.tests)
        raise OptionError(f"there is no test {name!r:.60}; there are {names}")

    @property
    def idle(self) -> tuple[str, ...]:
        """The edges that are shown to matter no more than random ones."""
        return tuple(np.array(self.edges)[self.edge_p <= LEVEL].tolist())

    def rows(self) -> list[dict[str, Any]]:
        """One record a test."""
        return [{"test": test.name, **test.as_dict()} for test in self.tests]

    def summary(self) -> Summary:
        """The sentences, and on how many facts they stand."""
        facts = {"pairs": f"{self.n_pairs:,}", "facts": f"{self.n_facts:,}", "level": f"{LEVEL:g}"}
        rows = [(test.name, test.verdict, test.sentence) for test in self.tests]
        return Summary("Tests of a circuit", facts, "", ("test", "verdict", "meaning"), rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "level": LEVEL,
            "pairs": self.n_pairs,
            "facts": self.n_facts,
            "draws": self.draws,
            **{test.name: test.as_dict() for test in self.tests},
            "idle_edges": list(self.idle),
        }


@alone
def circuit_tests(
    model: Model,
    pairs: Sequence[TokenPair],
    circuit: Circuit,
    *,
    draws: int = 100,
    metric: MetricLike = Metric.LOGIT_DIFFERENCE,
    ablation: Ablation | str = Ablation.PATCH,
    batch_size: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CircuitTests:
    """All tests on these pairs, which must be others than those that found the circuit.

    One run an edge, two a random edge, and two random circuits a draw. OptionError where the
    circuit is empty or there are fewer than `FEWEST_DRAWS` draws.
    """
    if not circuit.n_edges:
        raise NothingFoundError("the circuit has no edges, so there is nothing to test")
    if draws < FEWEST_DRAWS:
        raise OptionError(f"tests take {FEWEST_DRAWS} draws or more, not {draws}")
    generator = np.random.default_rng(seed)
    sized = [random_circuit(circuit.wiring, circuit.n_edges, generator) for _ in range(draws)]
    shaped = [same_shape(circuit, generator) for _ in range(draws)]
    lesser = [without(circuit, edge) for edge in np.flatnonzero(circuit.kept).tolist()]
    grown = [made for _ in range(draws) if (made := inflated(circuit, generator)) is not None]
    larger = [each for each, _ in grown]
    families = (
        [circuit, ~circuit],
        *(sized, shaped, lesser, larger),
        [without(each, edge) for each, edge in grown],
    )
    runs = run_circuits(
        model,
        pairs,
        [each for family in families for each in family],
        metric=metric,
        ablation=ablation,
        batch_size=batch_size,
        progress=progress,
    )
    whole, nothing, rows = _by_fact(runs, pairs)
    cuts = np.cumsum([len(family) for family in families])[:-1]
    (own, rest), as_large, as_shaped, less, more, undone = np.split(rows, cuts)
    effects = np.abs(less.mean(1) - own.mean())
    random_effects = np.abs(undone.mean(1) - more.mean(1))
    minimal, edge_p = minimality(effects, random_effects)
    distance = float(abs(own.mean() - whole.mean()))
    tests = (
        equivalence(own, whole),
        independence(rest, whole, nothing, seed),
        published_independence(rest, whole, nothing, seed),
        minimal,
        against("size", "random circuits of its size", distance, _distances(as_large, whole)),
        against(
            "shape",
            "circuits of its shape with other heads",
            distance,
            _distances(as_shaped, whole),
        ),
    )
    names = tuple(circuit.edge_names())
    return CircuitTests(
        len(pairs), len(whole), draws, tests, names, effects, edge_p, random_effects
    )


def equivalence(
    circuit: Float[np.ndarray, " fact"], model: Float[np.ndarray, " fact"]
) -> CircuitTest:
    """Whether circuit and model are as often one above the other in the metric."""
    better, n = int((circuit > model).sum()), int((circuit != model).sum())
    p, share = uneven_p(better, n), better / n if n else float("nan")
    null = f"each does better with a chance of {0.5 - MARGIN:.0%} to {0.5 + MARGIN:.0%}"
    least = least_uneven(n, LEVEL) if n else float("nan")
    if not n:
        said = "Circuit and whole model are equal on every fact"
    elif p <= LEVEL:
        word = "better" if 2 * better > n else "worse"
        count = better if 2 * better > n else n - better
        said = f"The circuit is not the model's equal: it does {word} on {count} of {n} facts"
    elif not np.isfinite(least):
        said = f"{n} facts are too few to tell whether circuit and whole model differ"
    else:
        said = (
            f"No evidence that circuit and whole model differ: the circuit does better on {better} "
            f"of {n} facts, where {round(least * n)} or more, or {n - round(least * n)} or fewer, "
            "would have shown a difference"
        )
    return CircuitTest("equivalence", null, share, p, n, _ended(said, p))


def independence(
    rest: Float[np.ndarray, " fact"],
    model: Float[np.ndarray, " fact"],
    nothing: Float[np.ndarray, " fact"],
    seed: int = 0,
) -> CircuitTest:
    """Whether what is outside the circuit adds to the metric as the whole model has it."""
    hsic, p = dependence(rest - nothing, model, PERMUTATIONS, seed)
    span = model.mean() - nothing.mean()
    share = (rest.mean() - nothing.mean()) / span if abs(span) > UNDEFINED_BELOW else np.nan
    left = f"a faithfulness of {share:.3f} is left"
    if not np.isfinite(share):
        left = "how much of the effect is left is undefined"
    elif abs(share) < LITTLE:
        left = f"little of the effect is left, a faithfulness of {share:.3f}"
    goes = "what is left without the circuit goes with the model's metric across facts"
    said = f"No evidence that {goes}"
    if p <= LEVEL:
        said = goes[0].upper() + goes[1:]
    elif not np.isfinite(p):
        said = "What is left without the circuit adds the same on every fact"
        if np.ptp(rest - nothing):
            said = "The model's metric is the same on every fact"
    null = "what the edges outside add to the metric is independent of the whole model's metric"
    return CircuitTest("independence", null, hsic, p, len(model), _ended(f"{said}; {left}", p))


def published_independence(
    rest: Float[np.ndarray, " fact"],
    model: Float[np.ndarray, " fact"],
    nothing: Float[np.ndarray, " fact"],
    seed: int = 0,
) -> CircuitTest:
    """Whether the metric outside the circuit goes with the whole model's; see the module's text."""
    hsic, p = dependence(rest, model, PERMUTATIONS, seed)
    _, without_any = dependence(nothing, model, PERMUTATIONS, seed)
    said = "No evidence that the metric outside the circuit goes with the whole model's"
    if not np.isfinite(p):
        said = "The metric outside the circuit, or the model's, is the same on every fact"
    elif p <= LEVEL:
        said = "The metric outside the circuit goes with the whole model's"
        if without_any <= LEVEL:
            said += ", but so does the metric of nothing kept, so that this says little"
    null = "the metric outside the circuit is independent of the whole model's metric"
    return CircuitTest("independence, published", null, hsic, p, len(model), _ended(said, p))


def minimality(
    effects: Float[np.ndarray, " edge"], random_effects: Float[np.ndarray, " draw"]
) -> tuple[CircuitTest, Float[np.ndarray, " edge"]]:
    """Whether every edge matters more than nine in ten random ones; and each edge's adjusted p."""
    draws, n = len(random_effects), len(effects)
    null = (
        f"on these facts each edge matters more than a random one with a chance of {QUANTILE:.0%} "
        "or more"
    )
    if not draws:
        said = "There is no random edge to compare with: the circuit has every path there is"
        found = CircuitTest("minimality", null, np.nan, np.nan, n, _ended(said, np.nan))
        return found, np.full(n, np.nan)
    wins = (effects[:, None] > random_effects[None, :]).sum(1)
    adjusted = holm([fewer_p(int(each), draws) for each in wins])
    idle, p = int((adjusted <= LEVEL).sum()), float(adjusted.min())
    said = f"No evidence that any of the {n} edges is idle"
    if idle:
        said = (
            f"The circuit is not minimal: {idle} of {n} edges do not matter more than nine in ten "
            "random edges"
        )
    return CircuitTest("minimality", null, float(idle), p, n, _ended(said, p)), adjusted


def against(
    name: str, what: str, distance: float, others: Float[np.ndarray, " draw"]
) -> CircuitTest:
    """Whether the circuit is nearer to the model than nine in ten of some random ones."""
    nearer, n = int((distance < others).sum()), len(others)
    p = more_p(nearer, n)
    null = (
        f"on these facts it is nearer to the whole model than {what} with a chance of "
        f"{QUANTILE:.0%} or less"
    )
    lead = "The circuit is nearer" if p <= LEVEL else "No evidence that the circuit is nearer"
    said = f"{lead} to the whole model than nine in ten {what}: nearer than {nearer} of {n}"
    return CircuitTest(name, null, nearer / n, p, n, _ended(said, p))


def _ended(said: str, p: float) -> str:
    """The sentence with its p."""
    if not np.isfinite(p):
        return f"{said}."
    return f"{said} ({'p < 0.001' if p < 0.001 else f'p = {p:.3f}'})."


def _by_fact(
    runs: Runs, pairs: Sequence[TokenPair]
) -> tuple[Float[np.ndarray, " fact"], Float[np.ndarray, " fact"], Float[np.ndarray, "run fact"]]:
    """Metrics of model, nothing kept and every circuit, averaged over the pairs of each fact."""
    facts = sample_of(pairs).facts
    place = {fact: n for n, fact in enumerate(dict.fromkeys(facts))}
    member = np.zeros((len(place), len(pairs)))
    member[[place[fact] for fact in facts], np.arange(len(pairs))] = 1
    member /= member.sum(1, keepdims=True)
    rows = np.stack([outcome.metric for outcome in runs.circuits])
    return member @ runs.model.metric, member @ runs.empty.metric, rows @ member.T


def _distances(
    rows: Float[np.ndarray, "run fact"], whole: Float[np.ndarray, " fact"]
) -> Float[np.ndarray, " run"]:
    """How far each run's mean metric is from the whole model's."""
    return np.abs(rows.mean(1) - whole.mean())
