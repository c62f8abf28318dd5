"""The noise floor: errors, levels and decisions, by theory, by simulation and on models."""

from __future__ import annotations

import itertools
import string

import numpy as np
import pytest
from scipy import stats

from circuits.base.choices import FalseDiscovery
from circuits.base.errors import OptionError, PromptError
from circuits.facts.facts import relation
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair
from circuits.graph.noise import (
    Decision,
    NoiseSettings,
    Sample,
    corrupted_subject,
    edge_changes,
    without_skewness,
)
from circuits.graph.null import calls_between_halves, some
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model, load
from circuits.model.wiring import Wiring
from locate.edges.eap import attribute
from locate.search import Scoring

WIRING = Wiring(3, 6, 6)
N_EDGES = WIRING.n_edges
NO_MARGIN = NoiseSettings(margin=0.0)


def scores(rows: np.ndarray) -> EdgeScores:
    """Per-pair scores of the first columns; all other edges are 0 in every pair."""
    full = np.zeros((len(rows), N_EDGES))
    full[:, : rows.shape[1]] = rows
    return EdgeScores(WIRING, full.mean(0), full)


def crossed(n_facts: int, n_partners: int) -> Sample:
    """Every fact with the next facts' subjects as its partners."""
    cells = [(f, (f + step) % n_facts) for f in range(n_facts) for step in range(1, n_partners + 1)]
    return Sample(tuple(f for f, _ in cells), tuple(q for _, q in cells))


def draw(generator: np.random.Generator, kind: str, *shape: int) -> np.ndarray:
    if kind == "heavy tails":
        return generator.standard_t(3, shape)
    return generator.standard_normal(shape)


def crossed_noise(generator: np.random.Generator, kind: str, sample: Sample, n: int) -> np.ndarray:
    """Effects of facts and of partners beside each pair's own; edges share part of each."""

    def effect(labels: tuple) -> np.ndarray:
        values = draw(generator, kind, max(labels) + 1, n) + draw(
            generator, kind, max(labels) + 1, 1
        )
        return values[list(labels)]

    return effect(sample.facts) + effect(sample.partners) + draw(generator, kind, len(sample), n)


# --- theory --------------------------------------------------------------------------------------


def test_with_one_pair_a_fact_the_statistic_is_the_paired_t_test():
    generator = np.random.default_rng(0)
    before, after = generator.standard_normal((2, 10, 30))
    found = edge_changes(
        scores(before), scores(after), Sample(tuple(range(10)), tuple("abcdefghij"))
    )
    expected = stats.ttest_rel(after, before)
    np.testing.assert_allclose((found.change / np.maximum(found.error, 1e-300))[:30], expected[0])
    limits = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.low[:30], limits.low)
    np.testing.assert_allclose(found.high[:30], limits.high)
    assert found.df == 9


def test_with_other_facts_on_either_side_the_error_is_welchs():
    generator = np.random.default_rng(0)
    before, after = generator.standard_normal((2, 10, 30)) * np.array([1.0, 2.0])[:, None, None]
    one = Sample(tuple(range(10)), tuple(range(10)))
    other = Sample(tuple(range(10, 20)), tuple(range(10, 20)))
    found = edge_changes(scores(before), scores(after), one, other)
    expected = stats.ttest_ind(after, before, equal_var=False)[0]
    np.testing.assert_allclose((found.change / np.maximum(found.error, 1e-300))[:30], expected)


def test_several_pairs_of_a_fact_count_as_one_value():
    """Partners that occur once add no noise of their own: the test is that of the facts' means."""
    generator = np.random.default_rng(0)
    before, after = generator.standard_normal((2, 24, 30))
    sample = Sample(tuple(row // 3 for row in range(24)), tuple(range(24)))
    found = edge_changes(scores(before), scores(after), sample)
    means = [side.reshape(8, 3, 30).mean(1) for side in (before, after)]
    own = stats.ttest_rel(means[1], means[0])[0]
    alone = stats.ttest_rel(after, before)[0]
    # The larger error of both ways to see it counts: the facts' own, or that of the partners.
    reported = np.abs(found.change[:30] / found.error[:30])
    by_facts = np.isclose(reported, np.abs(own))
    assert by_facts.any()
    assert (reported[~by_facts] < np.abs(own[~by_facts])).all()
    assert found.df == 7
    assert not np.allclose(own, alone)


@pytest.mark.parametrize("n_partners", [1, 3])
def test_the_error_is_the_spread_of_the_change_over_redrawn_facts_and_partners(n_partners):
    """Two routes to one number; clustering by fact alone would be far off with 3 partners."""
    generator = np.random.default_rng(0)
    sample = crossed(20, n_partners)
    changes, squares, naive = [], [], []
    zero = scores(np.zeros((len(sample), 200)))
    for _ in range(60):
        after = crossed_noise(generator, "normal", sample, 200)
        found = edge_changes(zero, scores(after), sample)
        changes.append(found.change[:200])
        squares.append(found.error[:200] ** 2)
        naive.append((after.reshape(20, -1, 200).mean(1).std(0, ddof=1) ** 2) / 20)
    spread = np.square(changes).mean()
    assert np.mean(squares) == pytest.approx(spread, rel=0.15)
    if n_partners == 3:
        assert np.mean(naive) < 0.7 * spread


def test_a_single_fact_leaves_the_partners_as_the_only_noise():
    generator = np.random.default_rng(0)
    before, after = generator.standard_normal((2, 12, 30))
    sample = Sample(("fact",) * 12, tuple(row % 6 for row in range(12)))
    found = edge_changes(scores(before), scores(after), sample)
    means = [side.reshape(2, 6, 30).mean(0) for side in (before, after)]
    expected = stats.ttest_rel(means[1], means[0])[0]
    np.testing.assert_allclose((found.change / np.maximum(found.error, 1e-300))[:30], expected)
    assert (found.df, found.facts, found.partners) == (5, 1, 6)


def test_the_order_of_pairs_and_the_side_that_comes_first_do_not_matter():
    generator = np.random.default_rng(0)
    before, after = generator.standard_normal((2, 24, 30))
    sample = crossed(8, 3)
    found = edge_changes(scores(before), scores(after), sample)
    order = generator.permutation(24)
    mixed = Sample(
        tuple(sample.facts[row] for row in order), tuple(sample.partners[row] for row in order)
    )
    again = edge_changes(scores(before[order]), scores(after[order]), mixed)
    np.testing.assert_allclose(again.error, found.error, atol=1e-12)
    back = edge_changes(scores(after), scores(before), sample, settings=NO_MARGIN)
    forth = edge_changes(scores(before), scores(after), sample, settings=NO_MARGIN)
    np.testing.assert_allclose(back.change, -forth.change, atol=1e-12)
    np.testing.assert_allclose(back.q_changed, forth.q_changed)


# --- levels, by simulation -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
@pytest.mark.parametrize(("n_facts", "n_partners"), [(8, 2), (20, 3)])
@pytest.mark.parametrize("control", list(FalseDiscovery))
def test_false_discoveries_stay_below_the_level(kind, n_facts, n_partners, control):
    """A tenth of the edges change; of those called changed at most 5 % do not."""
    generator = np.random.default_rng(1)
    sample = crossed(n_facts, n_partners)
    truth = np.zeros(N_EDGES, dtype=bool)
    truth[: N_EDGES // 10] = True
    shares, found_shares = [], []
    for _ in range(60):
        noise = crossed_noise(generator, kind, sample, N_EDGES)
        before = scores(draw(generator, kind, len(sample), N_EDGES) * 0)
        after = scores(noise + 5 * truth)
        settings = NoiseSettings(margin=0.0, control=control)
        called = edge_changes(before, after, sample, settings=settings).called(Decision.CHANGED)
        shares.append((called & ~truth).sum() / max(called.sum(), 1))
        found_shares.append(called[truth].mean())
    assert np.mean(shares) <= 0.05 + 2 * np.std(shares) / np.sqrt(len(shares))
    if n_facts == 20 and control is FalseDiscovery.BH:
        assert np.mean(found_shares) > 0.6


def test_where_nothing_changes_hardly_ever_any_edge_is_called_changed():
    generator = np.random.default_rng(2)
    sample = crossed(10, 3)
    zero = scores(np.zeros((len(sample), N_EDGES)))
    any_called = [
        edge_changes(
            zero,
            scores(crossed_noise(generator, "normal", sample, N_EDGES)),
            sample,
            settings=NO_MARGIN,
        )
        .called(Decision.CHANGED)
        .any()
        for _ in range(100)
    ]
    assert np.mean(any_called) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 100)


def test_skewed_differences_are_not_taken_for_a_change_too_often():
    """Plain t rejects about twice as often as it should with 15 exponential values."""
    generator = np.random.default_rng(0)
    sample = Sample(tuple(range(15)), tuple(range(15)))
    plain, own = [], []
    zero = scores(np.zeros((15, N_EDGES)))
    for _ in range(20):
        after = generator.exponential(size=(15, N_EDGES)) - 1
        found = edge_changes(zero, scores(after), sample, settings=NO_MARGIN)
        plain.append(stats.ttest_1samp(after, 0)[1] <= 0.05)
        own.append(found.p_changed <= 0.05)
    assert np.mean(plain) > 0.08
    assert np.mean(own) < 0.06


@pytest.mark.parametrize("true_change", [-1.0, 1.0])
def test_an_edge_at_the_margin_is_rarely_called_unchanged_or_changed(true_change):
    generator = np.random.default_rng(0)
    sample = crossed(12, 2)
    called = []
    for _ in range(60):
        noise = 0.3 * crossed_noise(generator, "normal", sample, N_EDGES)
        zero = scores(np.zeros((len(sample), N_EDGES)))
        found = edge_changes(
            zero, scores(noise + true_change), sample, settings=NoiseSettings(margin=1.0)
        )
        called.append(found.called(Decision.UNDECIDED).mean())
    assert np.mean(called) > 0.95


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "noise", "margin", "decision"),
    [
        (5.0, 0.1, 1.0, Decision.CHANGED),
        (-5.0, 0.1, 1.0, Decision.CHANGED),
        (0.5, 0.1, 1.0, Decision.UNCHANGED),
        (0.0, 0.1, 1.0, Decision.UNCHANGED),
        (1.0, 0.1, 1.0, Decision.UNDECIDED),
        (0.0, 9.0, 1.0, Decision.UNDECIDED),
        (0.5, 0.01, 0.0, Decision.CHANGED),
        (0.0, 1.0, 0.0, Decision.UNDECIDED),
        (2.0, 0.0, 1.0, Decision.CHANGED),
        (0.5, 0.0, 1.0, Decision.UNCHANGED),
        (0.0, 0.0, 1.0, Decision.UNCHANGED),
    ],
)
def test_the_decision_compares_the_change_with_the_margin(change, noise, margin, decision):
    generator = np.random.default_rng(3)
    sample = crossed(10, 3)
    before = np.zeros((len(sample), N_EDGES))
    deviations = generator.standard_normal((len(sample), N_EDGES))
    after = change + noise * (deviations - deviations.mean(0))
    found = edge_changes(
        scores(before), scores(after), sample, settings=NoiseSettings(margin=margin)
    )
    assert found.called(decision).all()
    assert found.counts()[decision] == N_EDGES
    assert found.decision(0) is decision


def test_the_margin_is_a_share_of_the_largest_score_before():
    before, after = (np.full((6, 2), value) for value in (4.0, 1.0))
    sample = crossed(3, 2)
    found = edge_changes(
        scores(before), scores(after), sample, settings=NoiseSettings(margin_share=0.5)
    )
    assert found.margin == 2.0


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(("fact",) * 4, ("partner",) * 4), "at least 2"),
        (Sample(("a", "b"), ("c", "d")), "scores of 4 pairs, but 2"),
    ],
)
def test_too_little_to_go_by_is_refused(sample, reason):
    values = scores(np.ones((4, 3)))
    with pytest.raises(OptionError, match=reason):
        edge_changes(values, values, sample)


def test_scores_without_pairs_are_refused():
    values = EdgeScores(WIRING, np.zeros(N_EDGES))
    with pytest.raises(OptionError, match="per-pair"):
        edge_changes(values, values, crossed(3, 1))


@pytest.mark.parametrize(
    ("clean", "corrupted", "subject", "expected"),
    [
        ("The capital of Peru is", "The capital of South Korea is", "Peru", "South Korea"),
        ("Peru has its capital in", "Cuba has its capital in", "Peru", "Cuba"),
        ("In Peru, Peruvians", "In Cuba, Peruvians", "Peru", "Cuba"),
        ("The capital of Peru is", "Cuba's capital is", "Peru", "Cuba's capital is"),
        ("The capital of Peru is", "The capital of Cuba is", None, "The capital of Cuba is"),
        ("法国的首都是", "日本的首都是", "法国", "日本"),
        ("法国の首都は", "南アフリカの首都は", "法国", "南アフリカ"),
        ("Peruvian Peru is", "Cuban Cuba is", "Peru", "Cuban Cuba is"),
    ],
)
def test_the_partner_is_what_stands_in_the_subjects_place(clean, corrupted, subject, expected):
    assert corrupted_subject(PromptPair(clean, corrupted, "a", "b", subject)) == expected


def test_wordings_of_a_fact_are_one_fact():
    pairs = [
        PromptPair(frame.format(clean), frame.format(other), "a", "b", clean, "capital")
        for frame in ("The capital of {} is", "In {} the capital is")
        for clean, other in (("Peru", "Cuba"), ("Japan", "Cuba"))
    ]
    sample = Sample.of(pairs)
    assert len(set(sample.facts)) == 2
    assert len(set(sample.partners)) == 1


def test_halves_share_no_fact_and_hold_all_of_an_even_number(monkeypatch: pytest.MonkeyPatch):
    """What is compared is what a split of the facts is, with each fact's rows on one side."""
    sample, seen = crossed(9, 3), []

    def watched(before: EdgeScores, after: EdgeScores, one: Sample, other: Sample, settings):
        rows = [{*side.per_pair[:, 0].tolist()} for side in (before, after)]
        seen.append((rows, [{*each.facts} for each in (one, other)]))
        return edge_changes(before, after, one, other, settings)

    monkeypatch.setattr("circuits.graph.null.edge_changes", watched)
    numbers = np.repeat(np.arange(9.0), 3)[:, None]
    calls_between_halves(scores(numbers), sample, splits=6)
    for rows, facts in seen:
        assert rows == facts  # a row's score is its fact's number
        assert not facts[0] & facts[1]
        assert [len(each) for each in facts] == [4, 4]
    assert len({frozenset(facts[0]) for _, facts in seen}) > 1


def test_halves_that_do_differ_are_called_so():
    """With one split of two kinds of facts among many, sizes tell; the seed decides the splits."""
    generator = np.random.default_rng(0)
    sample = Sample(tuple(range(4)), tuple("abcd"))
    rows = np.repeat([[0.0], [0.0], [9.0], [9.0]], 50, 1) + 0.01 * generator.random((4, 50))
    shares, single = calls_between_halves(scores(rows), sample, splits=60).T
    assert {*np.round(shares, 6)} == {0.0, round(50 / N_EDGES, 6)}
    assert {*single} == {0.0, 1.0}  # of the edges whose score varies
    again, other = (
        calls_between_halves(scores(rows), sample, splits=60, seed=seed)[:, 0] for seed in (0, 1)
    )
    assert np.array_equal(shares, again)
    assert not np.array_equal(shares, other)


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_one_edge_in_twenty_at_most_has_a_small_p_between_halves(kind):
    generator, sample = np.random.default_rng(0), crossed(24, 2)
    noise = scores(crossed_noise(generator, kind, sample, N_EDGES))
    single = calls_between_halves(noise, sample, splits=20)[:, 1]
    assert 0.005 < single.mean() < 0.06


def test_too_few_facts_for_halves_are_refused():
    with pytest.raises(OptionError, match="at least 4 facts"):
        calls_between_halves(
            scores(np.ones((3, 2))), some(crossed(4, 1), np.arange(4) < 3), splits=1
        )


# --- the null, on models -------------------------------------------------------------------------


def random_facts(model: Model, n: int) -> list[tuple[str, str]]:
    """Made-up subjects with as many tokens each, and objects that the tokenizer has words for."""
    letters = string.ascii_uppercase
    names = ["".join(pair) for pair in itertools.product(letters, letters[:4])]
    length = len(model.tokenizer.encode("The capital of QQ is"))
    usable = [x for x in names if len(model.tokenizer.encode(f"The capital of {x} is")) == length]
    objects = itertools.cycle(["Paris", "Tokyo", "Lima", "Oslo", "Havana"])
    return [(name, next(objects)) for name in usable[:n]]


def all_pairs(
    model: Model, facts: list[tuple[str, str]], template: str, n_partners: int, seed: int
) -> list[list[TokenPair]]:
    """For each fact that has them, so many pairs with different partners."""
    generator = np.random.default_rng(seed)
    found = []
    for subject, answer in facts:
        own: list[TokenPair] = []
        for place in generator.permutation(len(facts)):
            other, foil = facts[place]
            pair = PromptPair(
                template.format(subject), template.format(other), answer, foil, subject
            )
            try:
                own.append(encode_pair(model.tokenizer, pair))
            except PromptError:
                continue
            if len(own) == n_partners:
                found.append(own)
                break
    return found


def null_calls(
    model: Model, by_fact: list[list[TokenPair]], repeats: int
) -> dict[str, list[float]]:
    """Share of edges called changed between two draws from one model."""
    flat = [pair for own in by_fact for pair in own]
    whole = attribute(model, flat, Scoring(steps=2), keep_pairs=True)
    n_facts, n_partners = len(by_fact), len(by_fact[0])
    row = np.arange(len(flat)).reshape(n_facts, n_partners)
    generator = np.random.default_rng(0)
    calls: dict[str, list[float]] = {"other partners": []}

    def share(left: np.ndarray, right: np.ndarray) -> float:
        sides = []
        for rows in (left.ravel(), right.ravel()):
            kept = whole.per_pair[rows]
            sides.append(
                (EdgeScores(whole.wiring, kept.mean(0), kept), [flat[i].text for i in rows])
            )
        (before, one), (after, other) = sides
        changes = edge_changes(before, after, Sample.of(one), Sample.of(other), NO_MARGIN)
        return float(changes.called(Decision.CHANGED).mean())

    for _ in range(repeats):
        shuffled = generator.permuted(row, axis=1)
        half = n_partners // 2
        calls["other partners"].append(share(shuffled[:, :half], shuffled[:, half : 2 * half]))
    sample = Sample.of([pair.text for pair in flat])
    halves = calls_between_halves(whole, sample, splits=repeats)
    return {**calls, "other facts": halves[:, 0].tolist()}


def test_a_tiny_model_compared_with_itself_has_hardly_any_changed_edge(model):
    by_fact = all_pairs(model, random_facts(model, 16), "The capital of {} is", 4, 0)
    assert len(by_fact) >= 12
    calls = null_calls(model, by_fact, repeats=10)
    assert all(max(shares) <= 0.05 for shares in calls.values()), calls


def test_the_small_trained_model_compared_with_itself_has_hardly_any_changed_edge():
    trained = load("facts-gpt2", device="cpu")
    asked = relation("country_capital")
    facts = [(fact.subject, fact.object) for fact in asked.facts[:40]]
    by_fact = all_pairs(trained, facts, asked.templates[0], 4, 0)[:24]
    assert len(by_fact) >= 16
    calls = null_calls(trained, by_fact, repeats=10)
    assert all(max(shares) <= 0.05 for shares in calls.values()), calls


def test_the_transformation_against_skewness_by_hand():
    """Of t = 1, skewness 0.6 and 9 values: 3 (1/3 + 0.6/27 + 0.36/729 + 0.6/54)."""
    found = without_skewness(np.array([1.0, -1.0, 1.0]), np.array([0.6, -0.6, 0.0]), 9)
    np.testing.assert_allclose(found, [1.101481, -1.101481, 1.0], atol=1e-6)
