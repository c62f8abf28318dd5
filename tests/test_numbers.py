"""Statistics and measures against numbers that were worked out by hand or by another library."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from circuits.base.intervals import bootstrap, percentiles
from circuits.edits.judge.generation import Forced
from circuits.edits.judge.measures import Asked, Measure, Observation, Rates, measures
from circuits.edits.requests import Heading
from circuits.facts.facts import ProbeKind
from circuits.graph.evaluate import Outcome, Runs
from circuits.graph.noise import Sample
from circuits.graph.rediscovery import rediscover
from circuits.graph.scores import EdgeScores
from circuits.graph.select import top_n
from circuits.graph.testing import fewer_p, more_p
from circuits.model.metrics import log_probability, negative_kl
from circuits.model.wiring import Wiring

# --- intervals -----------------------------------------------------------------------------------


def test_an_interval_holds_the_middle_share_of_the_draws():
    found = percentiles(0, list(range(101)), 0.9)
    assert (found.low, found.high) == pytest.approx((5, 95))


def test_columns_are_resampled_together():
    """Half of something is half of it in every resample."""
    whole = np.random.default_rng(0).normal(5, 2, 20)

    def ratio(part: np.ndarray, of: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(part.mean(axis) / of.mean(axis))

    found = bootstrap(ratio, whole / 2, whole)
    assert (found.low, found.value, found.high) == pytest.approx((0.5, 0.5, 0.5))
    outcome = Outcome(whole, np.ones(20, bool))
    runs = Runs(outcome, Outcome(np.zeros(20), np.ones(20, bool)), (outcome, outcome))
    same = runs.difference(0, 1)
    assert (same.low, same.high) == (0, 0)


def test_resamples_that_leave_a_ratio_undefined_do_not_count():
    """A third of them lack the only row that is below; each row twice as a group is the same."""
    above, below = np.zeros(8), np.zeros(8)
    above[:2], below[0] = (1.0, 0.1), 2.0

    def ratio(part: np.ndarray, of: np.ndarray, axis: int = -1) -> np.ndarray:
        under = of.mean(axis)
        return np.where(under > 0, part.mean(axis) / np.where(under > 0, under, 1), np.nan)

    found = bootstrap(ratio, above, below)
    assert found.value == pytest.approx(0.55)
    assert 0.5 <= found.low < found.value < found.high
    doubled = (np.repeat(each, 2) for each in (above, below))
    assert bootstrap(ratio, *doubled, groups=np.repeat(np.arange(8), 2)) == found


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_p_values_of_counts_are_those_of_the_binomial_test(n: int, quantile: float):
    for wins in range(n + 1):
        less, greater = (
            stats.binomtest(wins, n, quantile, alternative=side).pvalue
            for side in ("less", "greater")
        )
        assert fewer_p(wins, n, quantile) == pytest.approx(less)
        assert more_p(wins, n, quantile) == pytest.approx(greater)


# --- rediscovery ---------------------------------------------------------------------------------

WIRING = Wiring(2, 2, 2)


def scores(rows: np.ndarray) -> EdgeScores:
    return EdgeScores(WIRING, rows.mean(0), rows)


def test_each_side_of_a_rediscovery_is_its_own():
    first = np.random.default_rng(0).standard_normal(WIRING.n_edges)
    before, after = (scores(np.tile(each, (12, 1))) for each in (first, first[::-1]))
    sample = Sample(tuple(range(12)), tuple(range(12)))
    found = rediscover(before, after, lambda s: top_n(s, 10), sample, resamples=5)
    for share, side in ((found.before, before), (found.after, after)):
        np.testing.assert_array_equal(share, top_n(side, 10).kept)
    assert not np.array_equal(found.before, found.after)


@pytest.mark.parametrize("grouping", ["facts", "partners"])
def test_facts_and_partners_are_both_resampled(grouping: str):
    """Where scores differ by one of the two alone, resampling that one is what moves them."""
    labels = tuple(row % 4 for row in range(16))
    others = tuple(row // 4 for row in range(16))
    named = {"facts": labels, "partners": others}
    if grouping == "partners":
        named = {"facts": others, "partners": labels}
    by_label = np.random.default_rng(1).standard_normal((4, WIRING.n_edges))
    side = scores(by_label[list(labels)])
    again = rediscover(side, side, lambda s: top_n(s, 10), Sample(**named), resamples=40)
    assert ((again.before > 0) & (again.before < 1)).any()


# --- metrics -------------------------------------------------------------------------------------


def test_metrics_of_whole_distributions_are_those_of_torch():
    clean, run = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.5, 1.5, -2.0]])
    answer = torch.tensor([0])
    p, q = clean.softmax(-1)[0].tolist(), run.softmax(-1)[0].tolist()
    by_hand = -sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert negative_kl(run, answer, answer, clean).item() == pytest.approx(by_hand, abs=1e-6)
    turned = -sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert abs(by_hand - turned) > 0.1, "these logits tell the directions apart"
    assert log_probability(run, answer).item() == pytest.approx(math.log(q[0]), abs=1e-6)


# --- what an edit did ----------------------------------------------------------------------------


def forced(answer: tuple[int, ...], best: tuple[int, ...], nll: float = 1.0) -> Forced:
    return Forced(answer, (-nll,) * len(answer), best)


def test_the_best_of_several_accepted_answers_counts():
    asked = Asked(None, None, (1,), ((5, 6), (7,)), ("Rome", "Roma"), (9,))
    answers = forced((5, 6), (5, 8), 2.0), forced((7,), (7,), 0.5)
    seen = Observation(answers, forced((9,), (7,), 1.0), (7,), "Roma")
    found = measures([asked], [seen], [seen])[Measure.EFFICACY]
    assert found == Rates(tokens=1.0, likelihood=1.0, generation=1.0)
    other = replace(seen, answers=seen.answers[:1], text="Romania")
    found = measures([asked], [seen], [other])[Measure.EFFICACY]
    assert found == Rates(tokens=0.5, likelihood=0.0, generation=0.0)


def test_what_is_kept_is_what_was_said_before_right_or_wrong():
    asked = Asked(ProbeKind.LOCALITY, None, (1,), ((5, 6),), ("Paris",), None)
    before = Observation((forced((5, 6), (8, 6)),), None, (8, 6), "Lyon")
    half = Observation((forced((5, 6), (5, 6)),), None, (5, 6), "Paris")
    found = measures([asked, asked], [before, before], [before, half])[Measure.LOCALITY]
    assert (found.tokens, found.generation) == (0.75, 0.5)
    later = replace(half, reply=(8, 7))
    assert measures([asked], [before], [later])[Measure.LOCALITY].generation == 0, "all its tokens"
    true = measures([asked], [before], [half])[Measure.LOCALITY_TRUE]
    assert (true.tokens, true.generation) == (1, 1)


def test_of_questions_of_several_hops_the_best_worded_counts_too():
    asked = [
        Asked(ProbeKind.PORTABILITY, Heading.MULTI_HOP, (place,), ((5,),), ("Rome",), None)
        for place in range(3)
    ]
    said = [
        Observation((forced((5,), (best,)),), None, (best,), text)
        for best, text in ((5, "Rome"), (6, "Oslo"), (6, "Oslo"))
    ]
    found = measures(asked, said, said)
    assert found[Measure.MULTI_HOP].tokens == pytest.approx(1 / 3)
    assert found[Measure.MULTI_HOP_ANY].tokens == found[Measure.MULTI_HOP_ANY].generation == 1
