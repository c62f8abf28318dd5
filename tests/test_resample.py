"""Laws of resampling pairs."""

from __future__ import annotations

import numpy as np
import pytest

from circuits.base.choices import Ranking
from circuits.base.errors import OptionError
from circuits.graph import resample
from circuits.graph.circuit import Circuit
from circuits.graph.resample import Stability, bootstrap_scores, classify, inclusion_frequency
from circuits.graph.scores import EdgeScores
from circuits.graph.select import top_n
from circuits.model.wiring import Wiring


def scores_with(per_pair: np.ndarray, wiring: Wiring) -> EdgeScores:
    return EdgeScores(wiring, per_pair.mean(0), per_pair)


def random_scores(pairs: int = 20, wiring: Wiring | None = None, seed: int = 0) -> EdgeScores:
    wiring = wiring or Wiring(2, 4, 2)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((pairs, wiring.n_edges))
    return scores_with((noise + 3 * rng.standard_normal(wiring.n_edges)).astype(np.float32), wiring)


def choose(scores: EdgeScores) -> Circuit:
    return top_n(scores, 20)


def test_resampling_is_drawing_rows_and_averaging_them() -> None:
    scores = random_scores()
    assert scores.per_pair is not None
    counts = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=40)
    rows = [np.repeat(np.arange(20), count) for count in counts]
    means = np.array([scores.per_pair[row].astype(np.float64).mean(0) for row in rows])
    intervals = bootstrap_scores(scores, 40, seed=5, level=0.8)
    np.testing.assert_allclose(intervals.low, np.quantile(means, 0.1, axis=0), atol=1e-5)
    np.testing.assert_allclose(intervals.high, np.quantile(means, 0.9, axis=0), atol=1e-5)
    kept = [choose(EdgeScores(scores.wiring, mean.astype(np.float32))).kept for mean in means]
    np.testing.assert_allclose(inclusion_frequency(scores, choose, 40, 5), np.mean(kept, axis=0))


def test_an_interval_covers_the_true_score_about_as_often_as_it_says() -> None:
    wiring = Wiring(6, 6, 6)
    per_pair = np.random.default_rng(0).standard_normal((60, wiring.n_edges))
    intervals = bootstrap_scores(scores_with(per_pair, wiring), 400, seed=1)
    covered = np.mean((intervals.low <= 0) & (intervals.high >= 0))
    assert 0.91 < covered < 0.96


def test_scores_that_all_pairs_share_have_intervals_of_no_width_and_a_certain_circuit() -> None:
    wiring = Wiring(2, 2, 2)
    row = np.arange(wiring.n_edges, dtype=np.float64)
    scores = scores_with(np.tile(row, (8, 1)), wiring)
    intervals = bootstrap_scores(scores, 50, seed=0)
    np.testing.assert_allclose(intervals.low, row)
    np.testing.assert_allclose(intervals.high, row)
    frequency = inclusion_frequency(scores, choose, 50, seed=0)
    np.testing.assert_array_equal(frequency, choose(scores).kept)


def test_inclusion_frequencies_sum_to_the_circuits_size() -> None:
    frequency = inclusion_frequency(random_scores(), choose, 30, seed=0)
    assert frequency.sum() == pytest.approx(20)
    assert frequency.min() >= 0
    assert frequency.max() <= 1


def test_an_edge_that_one_pair_carries_alone_is_in_when_that_pair_is_drawn() -> None:
    wiring, pairs = Wiring(1, 1, 1), 12
    per_pair = np.zeros((pairs, wiring.n_edges))
    per_pair[0, 2] = 1.0
    per_pair[:, 5] = 1e-6
    frequency = inclusion_frequency(
        scores_with(per_pair, wiring), lambda s: top_n(s, 1, Ranking.SIGNED), 4000, seed=0
    )
    assert frequency[2] == pytest.approx(1 - (1 - 1 / pairs) ** pairs, abs=0.03)


def test_memory_chunks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = random_scores()
    intervals = bootstrap_scores(scores, 30, seed=3)
    frequency = inclusion_frequency(scores, choose, 30, seed=3)
    monkeypatch.setattr(resample, "_CHUNK_BYTES", 1000)
    chunked = bootstrap_scores(scores, 30, seed=3)
    np.testing.assert_allclose(chunked.low, intervals.low, atol=1e-6)
    np.testing.assert_allclose(chunked.high, intervals.high, atol=1e-6)
    np.testing.assert_array_equal(inclusion_frequency(scores, choose, 30, seed=3), frequency)


def test_results_follow_the_seed() -> None:
    scores = random_scores()
    first, again, other = (inclusion_frequency(scores, choose, 20, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_scores_without_pairs_or_with_one_pair_are_refused() -> None:
    wiring = Wiring(1, 1, 1)
    averaged = EdgeScores(wiring, np.zeros(wiring.n_edges))
    single = scores_with(np.zeros((1, wiring.n_edges)), wiring)
    for scores, words in ((averaged, "one score a pair"), (single, "at least 2 pairs")):
        with pytest.raises(OptionError, match=words):
            bootstrap_scores(scores, 10, seed=0)
        with pytest.raises(OptionError, match=words):
            inclusion_frequency(scores, choose, 10, seed=0)


def test_absurd_options_are_refused() -> None:
    for resamples in (0, -1, 10**9):
        with pytest.raises(OptionError, match="resamples"):
            bootstrap_scores(random_scores(), resamples, seed=0)
    for level in (0.0, 1.0, 95.0, float("nan")):
        with pytest.raises(OptionError, match="level"):
            bootstrap_scores(random_scores(), 10, seed=0, level=level)
    with pytest.raises(OptionError, match="bounds"):
        classify(0.5, core=0.2, noise=0.8)


def test_every_frequency_has_one_class() -> None:
    labels = [classify(frequency) for frequency in (0.0, 0.49, 0.5, 0.94, 0.95, 1.0)]
    assert labels == [
        Stability.NOISE,
        Stability.NOISE,
        Stability.CONTINGENT,
        Stability.CONTINGENT,
        Stability.CORE,
        Stability.CORE,
    ]
