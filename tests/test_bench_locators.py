"""`kc bench locators`: its measures by hand, its registry, its command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from circuits.base.choices import Metric
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.graph.scores import EdgeScores
from experiments.cli.main import main
from experiments.planted.bench import (
    LocatorBench,
    Score,
    auroc,
    average_precision,
    catalogue,
    chosen_methods,
    chosen_models,
)
from locate.edges.locators import Locator
from locate.search import Scoring


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locators that a test adds are forgotten after it."""
    monkeypatch.setattr(Locator, "_known", dict(Locator._known))


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores = generator.integers(0, 6, 30).astype(float)  # with ties
        truth = generator.random(30) < 0.3
        truth[:2] = True, False
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
        assert auroc(scores, truth) == pytest.approx(np.mean(pairs))


def test_average_precision_is_counted_edge_by_edge():
    generator = np.random.default_rng(1)
    for _ in range(20):
        scores, truth = generator.integers(0, 6, 30).astype(float), generator.random(30) < 0.3
        truth[0] = True
        shares = [truth[scores >= scores[edge]].mean() for edge in np.flatnonzero(truth)]
        assert average_precision(scores, truth) == pytest.approx(np.mean(shares))


def test_perfect_scores_have_1_and_equal_ones_a_half_and_the_share_of_true_edges():
    truth = np.array([True, False, False, True])
    perfect, equal = np.array([3.0, 1.0, 0.0, 2.0]), np.ones(4)
    assert (auroc(perfect, truth), average_precision(perfect, truth)) == (1, 1)
    assert (auroc(-perfect, truth), auroc(equal, truth)) == (0, 0.5)
    assert average_precision(equal, truth) == 0.5
    assert np.isnan(auroc(perfect, np.ones(4, dtype=bool)))
    assert np.isnan(average_precision(perfect, np.zeros(4, dtype=bool)))


def mean_of(scored: dict[str, float]) -> Interval:
    scores = [Score(name, "m", x, x, x, 1.0, 1.0, 2, 9, ()) for name, x in scored.items()]
    return LocatorBench(tuple(scores)).mean("m", "auroc")


def test_the_mean_over_models_has_an_interval_from_eight_programs_on():
    values = np.linspace(0.2, 1, 9)
    many = mean_of({f"p{place}/gpt2": x for place, x in enumerate(values)})
    few = mean_of(
        {f"p{place}/{build}": x for place, x in enumerate(values[:7]) for build in ("gpt2", "gqa")}
    )
    assert many.value == pytest.approx(values.mean())
    assert many.low < many.value < many.high
    assert few.value == pytest.approx(values[:7].mean())
    assert np.isnan(few.low)


def test_models_of_one_program_count_as_one():
    """Twice the same model of each program says no more than one does, and each model weighs."""
    generator = np.random.default_rng(0)
    values = {f"p{place}": x for place, x in enumerate(generator.random(12))}
    once = mean_of({f"{name}/gpt2": x for name, x in values.items()})
    twice = mean_of(
        {f"{name}/{build}": x for name, x in values.items() for build in ("gpt2", "gqa")}
    )
    assert vars(twice) == pytest.approx(vars(once))
    apart = mean_of({f"{name}{place}/x": x for name, x in values.items() for place in (0, 1)})
    assert 1.2 < (once.high - once.low) / (apart.high - apart.low) < 1.8
    uneven = mean_of({f"p{place}/gpt2": 0.5 for place in range(8)} | {"p0/gqa": 1.0})
    assert uneven.value == pytest.approx((8 * 0.5 + 1.0) / 9)


def test_every_locator_that_gives_scores_is_measured_also_one_that_was_just_added(registry):
    before = [each.method for each in chosen_methods(None, Scoring())[0]]
    assert set(before) == {each for each in Locator if not each.selects}
    Locator.add("mine", lambda *given, **options: None)
    assert [each.method for each in chosen_methods(None, Scoring())[0]] == [*before, "mine"]


def test_a_locator_that_has_no_scores_with_these_options_is_left_out_and_named_refused():
    scoring = Scoring(metric=Metric.KL)
    found, left_out = chosen_methods(None, scoring)
    # Of the usual ensemble two are such locators.
    assert len(left_out) == sum(each.at_clean for each in Locator) + 1
    assert {each.method for each in found}.isdisjoint(each for each in Locator if each.at_clean)
    with pytest.raises(OptionError, match="gradient at the clean run"):
        chosen_methods(["eap"], scoring)
    with pytest.raises(OptionError, match="acdc selects edges itself"):
        chosen_methods(["eap", "acdc"], Scoring())


def test_models_are_chosen_by_name_task_or_build():
    assert [each.name for each in chosen_models(["mover/gqa", "norm-loud"])] == [
        "mover/gqa",
        "norm-loud/gpt2",
    ]
    assert {each.build for each in chosen_models(["trained"])} == {"trained"}
    assert chosen_models(None) == catalogue()
    with pytest.raises(OptionError, match="no planted model 'nonsense'; there are mover, lookup"):
        chosen_models(["mover", "nonsense"])


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "out"
    words = ["bench", "locators", "--models", "mover/gpt2,backup/gpt2", "--methods", "eap,exact"]
    assert main([*words, "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rows = pq.read_table(out / "locators.parquet").to_pylist()
    assert {(row["model"], row["method"]) for row in rows} == {
        (model, method) for model in ("mover/gpt2", "backup/gpt2") for method in ("eap", "exact")
    }
    by = {(row["model"], row["method"]): row for row in rows}
    assert by["mover/gpt2", "exact"]["auroc"] == 1
    assert by["mover/gpt2", "exact"]["missed"] == ""
    assert by["mover/gpt2", "exact"]["n_true"] == 2
    assert "input->a1.h2<v>" in by["backup/gpt2", "eap"]["missed"].split()
    assert by["backup/gpt2", "eap"]["auroc"] < by["backup/gpt2", "exact"]["auroc"] < 1
    assert all(row["forwards"] > 0 for row in rows)
    mean = np.mean([by[model, "eap"]["auroc"] for model in ("mover/gpt2", "backup/gpt2")])
    assert said["methods"]["eap"]["auroc"]["value"] == pytest.approx(mean)
    stored = json.loads((out / "summary.json").read_text())
    assert set(stored["provenance"]["weights_sha256"]) == {"mover/gpt2", "backup/gpt2"}
    assert stored["provenance"]["scorings"]["eap"]["metric"] == "logit-diff"


def test_a_locator_of_a_users_own_is_measured_like_ours(registry, tmp_path: Path, capsys):
    def blind(model, pairs, scoring, *, batch_size, keep_pairs, progress):
        wiring = model.wiring(scoring.kv)
        return EdgeScores(wiring, np.zeros(wiring.n_edges, dtype=np.float32))

    Locator.add("blind", blind)
    words = ["bench", "locators", "--models", "mover/gqa", "--methods", "blind,exact"]
    options = ["--kv", "per-query-head", "--ablation", "mean", "--out", str(tmp_path), "--json"]
    assert main([*words, *options]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["blind"]["auroc"] == 0.5
    assert rows["exact"]["auroc"] > 0.9
    assert len(rows["blind"]["missed"]) == rows["blind"]["n_true"] == 4


def test_the_list_explains_every_task(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "locators", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{each.program.name} (" in f"\n{said}" for each in catalogue())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "nonsense"], "method 'nonsense' is none; there are eap"),
        (["--methods", "acdc"], "acdc selects edges itself and gives no scores to compare"),
        (["--methods", "eap", "--metric", "kl"], "eap takes the gradient at the clean run"),
        (
            ["--methods", "eap,relp", "--steps", "3"],
            "--steps has no effect with --methods eap, relp",
        ),
        (["--models", ""], "no planted model ''; there are mover"),
        (["--models", "mover", "--noise", "11"], "Invalid value for '--noise'"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "locators", *words]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert err[0].startswith(f"kc: error: {said}")
    assert not list(tmp_path.iterdir())


def test_a_locator_that_fails_leaves_nothing_behind(registry, tmp_path: Path, capsys):
    def broken(model, pairs, scoring, *, batch_size, keep_pairs, progress):
        wiring = model.wiring(scoring.kv)
        return EdgeScores(wiring, np.full(wiring.n_edges, np.nan, dtype=np.float32))

    Locator.add("broken", broken)
    out = tmp_path / "out"
    words = ["bench", "locators", "--models", "mover/gpt2", "--methods", "broken"]
    assert main([*words, "--out", str(out)]) == 4
    assert "broken gives scores of mover/gpt2 that are not finite" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_the_best_locator_finds_nearly_every_planted_edge(tmp_path: Path, capsys):
    """The bar that the documentation states."""
    words = ["bench", "locators", "--methods", "eap,eap-ig,ensemble,exact"]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["methods"]
    assert max(each["auroc"]["value"] for each in found.values()) >= 0.99
    assert found["exact"]["average_precision"]["value"] > found["eap"]["average_precision"]["value"]
